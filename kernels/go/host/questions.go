package main

import (
	"go/scanner"
	"go/token"
	"slices"
	"strings"
	"unicode"
)

const longestPreview = 120

// variables lists what the session has declared.
func (h *host) variables(limit int) message {
	list := []message{}
	for _, u := range h.session.units {
		for _, name := range u.names {
			if name == "_" || u.gone[name] {
				continue
			}
			shown := name
			if u.kind == methodUnit {
				shown = u.key()
			}
			preview := strings.Join(strings.Fields(u.whole.text()), " ")
			if len(preview) > longestPreview {
				preview = strings.ToValidUTF8(preview[:longestPreview], "")
			}
			list = append(list, message{
				"name": shown, "type": kinds[u.kind], "shape": nil, "size": nil, "preview": preview,
			})
		}
	}
	total := len(list)
	list = list[:min(max(limit, 0), total)]
	return message{"variables": list, "total": total, "truncated": len(list) < total}
}

var kinds = map[unitKind]string{
	typeUnit: "type", funcUnit: "func", methodUnit: "method", constUnit: "const", varUnit: "var",
}

// complete finds names that begin with the word before the cursor.
func (h *host) complete(code string, cursor int) ([]string, int) {
	text := []rune(code)
	cursor = min(max(cursor, 0), len(text))
	start := cursor
	for start > 0 && isLetter(text[start-1]) {
		start--
	}
	word := string(text[start:cursor])
	if start > 0 && text[start-1] == '.' {
		first := start - 1
		for first > 0 && isLetter(text[first-1]) {
			first--
		}
		return beginning(h.exported(string(text[first:start-1])), word), start
	}
	names := []string{}
	for tok := token.BREAK; tok <= token.VAR; tok++ {
		names = append(names, tok.String())
	}
	for _, u := range h.session.units {
		if u.kind != methodUnit {
			names = append(names, u.names...)
		}
	}
	for name := range h.tools.names {
		names = append(names, name)
	}
	if word == "" {
		return []string{}, start
	}
	return beginning(names, word), start
}

func isLetter(r rune) bool {
	return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r)
}

func beginning(names []string, word string) []string {
	found := []string{}
	for _, name := range names {
		if strings.HasPrefix(name, word) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// exported are the names that a package, by the name it has in the session, gives to others.
func (h *host) exported(name string) []string {
	importPath := h.pathOf(name)
	if importPath == "" {
		return nil
	}
	found, err := h.tools.importer.Import(importPath)
	if err != nil {
		return nil
	}
	var names []string
	for _, member := range found.Scope().Names() {
		if token.IsExported(member) {
			names = append(names, member)
		}
	}
	return names
}

func (h *host) pathOf(name string) string {
	for _, spec := range h.session.imports {
		if spec.localName() == name {
			return spec.path
		}
	}
	return h.tools.names[name]
}

// inspect tells of the name at the cursor: a declaration of the session, or a package's member.
func (h *host) inspect(code string, cursor int) any {
	text := []rune(code)
	cursor = min(max(cursor, 0), len(text))
	start, end := cursor, cursor
	for start > 0 && (isLetter(text[start-1]) || text[start-1] == '.') {
		start--
	}
	for end < len(text) && isLetter(text[end]) {
		end++
	}
	word := string(text[start:end])
	if name, member, ok := strings.Cut(word, "."); ok {
		importPath := h.pathOf(name)
		if importPath == "" {
			return nil
		}
		found, err := h.tools.importer.Import(importPath)
		if err != nil {
			return nil
		}
		if object := found.Scope().Lookup(member); object != nil {
			return message{"text/plain": object.String()}
		}
		return nil
	}
	for _, u := range h.session.units {
		if slices.Contains(u.names, word) && !u.gone[word] {
			return message{"text/plain": u.whole.text()}
		}
	}
	return nil
}

// isComplete tells whether a cell's brackets, strings and comments are closed.
func isComplete(code string) string {
	set := token.NewFileSet()
	file := set.AddFile("", set.Base(), len(code))
	var s scanner.Scanner
	open := false
	s.Init(file, []byte(code), func(_ token.Position, text string) {
		open = open || strings.Contains(text, "not terminated")
	}, 0)
	depth := 0
	for {
		_, tok, _ := s.Scan()
		switch tok {
		case token.LPAREN, token.LBRACK, token.LBRACE:
			depth++
		case token.RPAREN, token.RBRACK, token.RBRACE:
			depth--
		case token.EOF:
			switch {
			case depth > 0 || open:
				return "incomplete"
			case depth < 0:
				return "invalid"
			}
			if _, err := parse(newCell(1, code)); err != nil && !isProgram(code) {
				return "invalid"
			}
			return "complete"
		}
	}
}

package main

import (
	"go/scanner"
	"go/token"
	"strings"
)

// item is a part of a cell: one declaration that begins with keyword, or statements in a row, for
// which keyword is ILLEGAL. It is code[start:end], with the comments before it.
type item struct {
	keyword    token.Token
	start, end int
}

type lexeme struct {
	token   token.Token
	literal string
	offset  int
}

func lex(code string) []lexeme {
	set := token.NewFileSet()
	file := set.AddFile("", set.Base(), len(code))
	var s scanner.Scanner
	s.Init(file, []byte(code), func(token.Position, string) {}, 0)
	var found []lexeme
	for {
		pos, tok, literal := s.Scan()
		found = append(found, lexeme{tok, literal, file.Offset(pos)})
		if tok == token.EOF {
			return found
		}
	}
}

// isProgram tells whether the code is a whole file: its first word is package.
func isProgram(code string) bool {
	return lex(code)[0].token == token.PACKAGE
}

// cut parts a cell at top level. What is no Go at all ends up among statements, whose parser
// complains. A semicolon in the header of a statement cuts, too, but what follows it is no
// declaration and so is joined again.
func cut(code string) []item {
	var items []item
	lexemes := lex(code)
	depth, start := 0, 0
	keyword := token.ILLEGAL
	add := func(end int) {
		if strings.TrimSpace(code[start:end]) == "" {
			return
		}
		last := len(items) - 1
		if keyword == token.ILLEGAL && last >= 0 && items[last].keyword == token.ILLEGAL {
			items[last].end = end
		} else {
			items = append(items, item{keyword, start, end})
		}
		start = end
	}
	begins := true
	for i, lexeme := range lexemes {
		if begins && lexeme.token != token.SEMICOLON {
			begins = false
			keyword = declares(lexemes[i:])
		}
		switch lexeme.token {
		case token.LPAREN, token.LBRACK, token.LBRACE:
			depth++
		case token.RPAREN, token.RBRACK, token.RBRACE:
			depth--
		case token.SEMICOLON:
			if depth > 0 {
				continue
			}
			end := lexeme.offset
			if lexeme.literal == ";" {
				end++
			}
			add(min(end, len(code)))
			begins = true
		case token.EOF:
			if !begins || len(items) == 0 {
				add(len(code))
			}
		}
	}
	return items
}

// declares tells the keyword of the declaration that begins here, ILLEGAL if none does.
func declares(lexemes []lexeme) token.Token {
	switch lexemes[0].token {
	case token.IMPORT, token.TYPE, token.VAR, token.CONST:
		return lexemes[0].token
	case token.FUNC:
	default:
		return token.ILLEGAL
	}
	at := 1
	if lexemes[at].token == token.LPAREN {
		at = closing(lexemes, at) + 1
	}
	if at+1 >= len(lexemes) || lexemes[at].token != token.IDENT {
		return token.ILLEGAL
	}
	next := at + 1
	if at > 1 && lexemes[next].token == token.LBRACK {
		// A generic method; or a literal whose result is of a generic type.
		next = min(closing(lexemes, next)+1, len(lexemes)-1)
	}
	if at == 1 || lexemes[next].token == token.LPAREN {
		return token.FUNC
	}
	return token.ILLEGAL
}

// closing is the index of the bracket that closes the one at index at.
func closing(lexemes []lexeme, at int) int {
	depth := 0
	for i := at; i < len(lexemes); i++ {
		switch lexemes[i].token {
		case token.LPAREN, token.LBRACK, token.LBRACE:
			depth++
		case token.RPAREN, token.RBRACK, token.RBRACE:
			depth--
			if depth == 0 {
				return i
			}
		}
	}
	return len(lexemes) - 1
}

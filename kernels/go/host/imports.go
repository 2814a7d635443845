package main

import (
	"go/token"
	"path"
	"regexp"
	"strings"
)

// localName is what an import is called in the code.
func (s importSpec) localName() string {
	if s.name != "" {
		return s.name
	}
	return packageName(s.path)
}

func (s importSpec) same(other importSpec) bool {
	return s.path == other.path && s.localName() == other.localName()
}

var version = regexp.MustCompile(`^v\d+$`)

// packageName guesses a package's name from its path.
func packageName(importPath string) string {
	name := path.Base(importPath)
	if version.MatchString(name) && strings.Contains(importPath, "/") {
		name = path.Base(path.Dir(importPath))
	}
	if i := strings.Index(name, ".v"); i > 0 {
		name = name[:i]
	}
	name = strings.TrimPrefix(name, "go-")
	return strings.ReplaceAll(name, "-", "_")
}

// preferred are the packages meant by names that more than one package of the standard library has.
var preferred = map[string]string{
	"rand":     "math/rand",
	"template": "text/template",
	"scanner":  "text/scanner",
	"pprof":    "runtime/pprof",
	"jsontext": "encoding/json/jsontext",
	"json":     "encoding/json",
	"display":  "kernelagent/display",
}

// byName finds the packages that need no import: those of the standard library, and display.
func byName(paths []string) map[string]string {
	found := map[string]string{}
	unclear := map[string]bool{}
	for _, importPath := range paths {
		if hidden(importPath) || strings.HasPrefix(importPath, "kernelagent/") {
			continue
		}
		name := packageName(importPath)
		if _, taken := found[name]; taken {
			unclear[name] = true
		}
		found[name] = importPath
	}
	for name := range unclear {
		delete(found, name)
	}
	for name, importPath := range preferred {
		found[name] = importPath
	}
	return found
}

// hidden tells whether code may not import a package of the standard library.
func hidden(importPath string) bool {
	for _, part := range strings.Split(importPath, "/") {
		if part == "internal" || part == "vendor" {
			return true
		}
	}
	return importPath == "main" || strings.HasPrefix(importPath, "cmd/")
}

// identifiers are the names in a text that do not follow a dot.
func identifiers(text string) map[string]bool {
	found := map[string]bool{}
	before := token.ILLEGAL
	for _, lexeme := range lex(text) {
		if lexeme.token == token.IDENT && before != token.PERIOD {
			found[lexeme.literal] = true
		}
		before = lexeme.token
	}
	return found
}

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	mostErrors = 20
	// Programs that are kept, since the same code often comes again.
	mostPrograms = 4
)

// program is what is compiled for a cell.
type program struct {
	text string
	// Import paths by which it is known whether the archives suffice.
	imports []string
}

// generate writes the program of a cell: what it uses of the session, then its own statements.
// Its error are complaints.
func (h *host) generate(s *session, p *parsed) (*program, error) {
	unused := map[string]bool{}
	for {
		before := len(unused)
		made, err := h.generateWithout(s, p, unused)
		// A name that looks like a package's may be a variable's.
		if len(unused) == before {
			return made, err
		}
	}
}

// generateWithout leaves some imports out, and adds those to them that it finds unused.
func (h *host) generateWithout(s *session, p *parsed, unused map[string]bool) (*program, error) {
	w := &writer{current: p.cell}
	included, used := reach(s, p)
	imports := slices.DeleteFunc(h.importsFor(s, used), func(spec importSpec) bool {
		return unused[spec.path]
	})
	w.words("package main\n")
	for _, spec := range imports {
		w.words("import %s %q\n", spec.name, spec.path)
	}
	local := map[*unit]bool{}
	for _, step := range p.steps {
		if step.unit != nil && step.unit.inPlace {
			local[step.unit] = true
		}
	}
	for _, u := range included {
		if local[u] {
			continue
		}
		declare(w, u)
	}
	w.words("func main() {\n")
	for _, step := range p.steps {
		switch {
		case step.unit == nil:
			w.piece(step.piece)
			w.words("\n")
		case local[step.unit]:
			if !step.unit.short {
				w.words("var ")
			}
			w.piece(step.unit.whole)
			w.words("\n")
			for _, name := range step.unit.names {
				if name != "_" {
					w.words("_ = %s\n", name)
				}
			}
		}
	}
	for _, body := range p.mains {
		w.words("func() {")
		w.piece(body)
		w.words("\n}()\n")
	}
	if p.result != nil {
		w.words("%s", resultMark)
		w.piece(*p.result)
		w.words("\n")
	}
	w.words("}\n")
	text := w.String()
	shown, err := h.check(text, p, unused)
	if err != nil {
		return nil, err
	}
	if p.result != nil && shown {
		before, after, _ := strings.Cut(text, resultMark)
		after = strings.TrimSuffix(after, "\n}\n")
		text = before + "ka_session.Result(" + after + ")\n}\n"
		text = strings.Replace(text, "package main\n",
			"package main\nimport ka_session \"kernelagent/session\"\n", 1)
	}
	made := &program{text: text}
	for _, spec := range imports {
		made.imports = append(made.imports, spec.path)
	}
	return made, nil
}

const resultMark = "/*result*/"

func declare(w *writer, u *unit) {
	switch u.kind {
	case typeUnit:
		w.words("type ")
	case varUnit:
		w.words("var ")
		if u.short {
			for i, name := range u.names {
				if i > 0 {
					w.words(", ")
				}
				if u.gone[name] {
					name = "_"
				}
				w.words("%s", name)
			}
			w.words(" = ")
			w.piece(u.right)
			w.words("\n")
			return
		}
	}
	w.piece(u.whole)
	w.words("\n")
}

// reach finds the units that a cell needs, in the session's order, and all names in them.
func reach(s *session, p *parsed) ([]*unit, map[string]bool) {
	names := identifiers(p.cell.code)
	included := map[*unit]bool{}
	for _, u := range p.units {
		included[u] = true
	}
	for grown := true; grown; {
		grown = false
		for _, u := range s.units {
			if included[u] {
				continue
			}
			wanted := u.kind == methodUnit && names[u.receiver]
			if u.kind != methodUnit {
				wanted = slices.ContainsFunc(u.names, func(name string) bool {
					return names[name] && !u.gone[name]
				})
			}
			if wanted {
				included[u] = true
				grown = true
				for name := range identifiers(u.whole.text()) {
					names[name] = true
				}
			}
		}
	}
	var found []*unit
	for _, u := range s.units {
		if included[u] {
			found = append(found, u)
		}
	}
	return found, names
}

// importsFor are the imports whose names are used: written ones, then what needs no import.
func (h *host) importsFor(s *session, used map[string]bool) []importSpec {
	var found []importSpec
	taken := map[string]bool{}
	for _, spec := range s.imports {
		name := spec.localName()
		if spec.name == "" {
			if real, ok := h.realName(spec.path); ok {
				name = real
			}
		}
		if spec.name == "_" || spec.name == "." || used[name] && !taken[name] {
			taken[name] = true
			found = append(found, spec)
		}
	}
	for _, u := range s.units {
		for _, name := range u.names {
			if u.kind != methodUnit {
				taken[name] = true
			}
		}
	}
	for name := range used {
		if importPath, ok := h.tools.names[name]; ok && !taken[name] {
			found = append(found, importSpec{path: importPath})
		}
	}
	slices.SortFunc(found, func(a, b importSpec) int { return strings.Compare(a.path, b.path) })
	return found
}

// realName is the name of a package of the standard library.
func (h *host) realName(importPath string) (string, bool) {
	if _, ok := h.tools.archives[importPath]; !ok {
		return "", false
	}
	found, err := h.tools.importer.Import(importPath)
	if err != nil {
		return "", false
	}
	return found.Name(), true
}

// check type-checks a program where the archives suffice, and tells whether its last expression has
// a value to show. Its error are complaints.
func (h *host) check(text string, p *parsed, unused map[string]bool) (bool, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "main.go", text, parser.ParseComments)
	if err != nil {
		return false, complaints{{nil, 0, h.told(err.Error(), p.cell.count)}}
	}
	for _, spec := range file.Imports {
		path := strings.Trim(spec.Path.Value, "\"`")
		if _, ok := h.tools.archives[path]; !ok {
			// Modules are for the go command, which complains by itself.
			return p.result != nil, nil
		}
	}
	var bad complaints
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	config := types.Config{
		Importer: h.tools.importer,
		Error: func(err error) {
			var found types.Error
			message := err.Error()
			if errors.As(err, &found) {
				if path := notUsed.FindStringSubmatch(found.Msg); path != nil {
					unused[path[1]] = true
					return
				}
				where := set.Position(found.Pos)
				message = fmt.Sprintf("%s:%d:%d: %s", where.Filename, where.Line, where.Column, found.Msg)
			}
			bad = append(bad, complaint{nil, 0, h.told(message, p.cell.count)})
		},
	}
	_, _ = config.Check("main", set, []*ast.File{file}, info)
	// As a statement, a value that is not used is an error; here it is shown.
	bad = slices.DeleteFunc(bad, func(c complaint) bool {
		return p.result != nil && strings.Contains(c.text, "is not used")
	})
	if len(bad) > 0 {
		return false, bad
	}
	if p.result == nil {
		return false, nil
	}
	main := file.Decls[len(file.Decls)-1].(*ast.FuncDecl)
	last, ok := main.Body.List[len(main.Body.List)-1].(*ast.ExprStmt)
	if !ok {
		return false, nil
	}
	value := info.Types[last.X]
	if value.IsVoid() || value.Type == nil {
		return false, nil
	}
	if several, ok := value.Type.(*types.Tuple); ok {
		// The count and the error of whatever has printed something.
		return !(several.Len() == 2 && isError(several.At(1).Type()) && isInteger(several.At(0).Type())), nil
	}
	return !isError(value.Type) && !strings.HasSuffix(value.Type.String(), "kernelagent/display.Display"), nil
}

func isError(t types.Type) bool {
	return types.Identical(t, types.Universe.Lookup("error").Type())
}

func isInteger(t types.Type) bool {
	basic, ok := t.Underlying().(*types.Basic)
	return ok && basic.Info()&types.IsInteger != 0
}

var notUsed = regexp.MustCompile(`^"([^"]+)" imported (?:as \S+ )?and not used`)

// told is a message with the places that a person knows.
func (h *host) told(text string, count int) string {
	text = strings.ReplaceAll(text, h.work+"/", "")
	text = strings.ReplaceAll(text, "./Cell In[", "Cell In[")
	text = strings.ReplaceAll(text, "].go:", "]:")
	return strings.ReplaceAll(text, cellName(running), fmt.Sprintf("Cell In[%d]", count))
}

// build makes an executable; its error are complaints, or what keeps the tools from working.
func (h *host) build(ctx context.Context, text string, name string, count int, cwd string, env []string) (string, error) {
	source := filepath.Join(h.work, name)
	if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
		return "", err
	}
	target := filepath.Join(h.work, fmt.Sprintf("program-%x", sha256.Sum256([]byte(text+"\x00"+name+"\x00"+cwd))))
	suffices := h.suffices(text)
	if i := slices.Index(h.built, target); i >= 0 && suffices && exists(target) {
		h.built = append(slices.Delete(h.built, i, i+1), target)
		return target, nil
	}
	var said []byte
	var err error
	if suffices {
		archive := filepath.Join(h.work, "main.a")
		config := filepath.Join(h.tools.directory, archivesFile)
		compile := exec.CommandContext(ctx, h.tools.tool("compile"), "-p", "main", "-complete",
			"-pack", "-importcfg", config, "-o", archive, source)
		compile.Dir = h.work
		compile.Env = env
		said, err = compile.CombinedOutput()
		if err == nil {
			link := exec.CommandContext(ctx, h.tools.tool("link"), "-importcfg", config, "-s", "-w",
				"-buildmode=exe", "-o", target, archive)
			link.Dir = h.work
			link.Env = env
			said, err = link.CombinedOutput()
		}
	} else {
		said, err = h.buildModule(ctx, text, name, target, cwd, env)
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", h.complaintsOf(string(said), count)
	}
	if err != nil {
		return "", err
	}
	h.built = append(slices.DeleteFunc(h.built, func(old string) bool { return old == target }), target)
	if len(h.built) > mostPrograms {
		// It is only a copy that could be made again.
		_ = os.Remove(h.built[0])
		h.built = h.built[1:]
	}
	return target, nil
}

// buildModule builds with the go command inside the module that the directory belongs to, without
// writing into it.
func (h *host) buildModule(ctx context.Context, text, name, target, cwd string, env []string) ([]byte, error) {
	root := moduleRoot(cwd)
	if root == "" {
		root = h.work
		module := "module cell\n\ngo 1.21\n"
		if err := os.WriteFile(filepath.Join(root, "go.mod"), []byte(module), 0o644); err != nil {
			return nil, err
		}
	}
	module := moduleName(root)
	replaced := map[string]string{}
	if strings.Contains(text, `"kernelagent/`) {
		prefix := module + "/ka_packages/"
		for _, own := range []string{"channel", "display", "session"} {
			files, err := filepath.Glob(filepath.Join(h.packages, own, "*.go"))
			if err != nil {
				return nil, err
			}
			for _, file := range files {
				content, err := os.ReadFile(file)
				if err != nil {
					return nil, err
				}
				changed := strings.ReplaceAll(string(content), `"kernelagent/`, `"`+prefix)
				copied := filepath.Join(h.work, own+"_"+filepath.Base(file)+".txt")
				if err := os.WriteFile(copied, []byte(changed), 0o644); err != nil {
					return nil, err
				}
				replaced[filepath.Join(root, "ka_packages", own, filepath.Base(file))] = copied
			}
		}
		text = strings.ReplaceAll(text, `"kernelagent/`, `"`+prefix)
	}
	source := filepath.Join(h.work, "module.txt")
	if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
		return nil, err
	}
	replaced[filepath.Join(root, "ka_cell", name)] = source
	overlay := filepath.Join(h.work, "overlay.json")
	if err := writeJSON(overlay, map[string]any{"Replace": replaced}); err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, h.tools.goCommand(), "build", "-overlay", overlay,
		"-ldflags=-s -w", "-o", target, "./ka_cell")
	command.Dir = root
	command.Env = env
	said, err := command.CombinedOutput()
	return []byte(strings.ReplaceAll(string(said), root+"/ka_cell/", "")), err
}

// suffices tells whether a program needs nothing but what was compiled at installation.
func (h *host) suffices(text string) bool {
	file, err := parser.ParseFile(token.NewFileSet(), "", text, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		// The compiler will complain.
		return true
	}
	for _, spec := range file.Imports {
		if _, ok := h.tools.archives[strings.Trim(spec.Path.Value, "\"`")]; !ok {
			return false
		}
	}
	return !strings.Contains(text, "//go:embed") && !strings.Contains(text, `import "C"`)
}

// complaintsOf reads what the tools have said.
func (h *host) complaintsOf(said string, count int) error {
	var bad complaints
	for _, line := range strings.Split(strings.TrimSpace(said), "\n") {
		line = strings.TrimSpace(h.told(line, count))
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "note:") {
			continue
		}
		line = strings.TrimPrefix(strings.TrimPrefix(line, "./"), "ka_cell/")
		bad = append(bad, complaint{nil, 0, line})
		if len(bad) == mostErrors {
			break
		}
	}
	if len(bad) == 0 {
		bad = complaints{{nil, 0, "the program could not be built"}}
	}
	return bad
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// moduleRoot is the folder of the go.mod that a directory belongs to; empty if there is none.
func moduleRoot(directory string) string {
	for {
		if exists(filepath.Join(directory, "go.mod")) {
			return directory
		}
		parent := filepath.Dir(directory)
		if parent == directory {
			return ""
		}
		directory = parent
	}
}

var moduleLine = regexp.MustCompile(`(?m)^module\s+"?([^\s"]+)`)

func moduleName(root string) string {
	content, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return "cell"
	}
	if found := moduleLine.FindSubmatch(content); found != nil {
		return string(found[1])
	}
	return "cell"
}

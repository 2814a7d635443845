package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"strings"
)

type unitKind int

const (
	typeUnit unitKind = iota
	funcUnit
	methodUnit
	constUnit
	varUnit
)

// unit is a declaration that is kept. A group of types or variables is parted into its members; one
// of constants stays whole, for their values may depend on each other.
type unit struct {
	kind  unitKind
	names []string
	// For a method: the receiver's type.
	receiver string
	// The whole declaration, after its keyword if that is a group's.
	whole piece
	// For variables: the names, their type if it is written, their values.
	left, written, right piece
	// Whether a := declares them, and whether it sets a variable of an older cell, too.
	short, assigns bool
	// Whether they are set in their place among the statements of their own cell.
	inPlace bool
	// Names that were declared anew since.
	gone map[string]bool
	// Of variables, as the last check found.
	types map[string]string
	// A variable's type as its members show, as it was when its value was kept.
	kept map[string]string
}

func (u *unit) key() string {
	if u.kind == methodUnit {
		return u.receiver + "." + u.names[0]
	}
	return u.names[0]
}

// importSpec is an import; name is empty unless it is written.
type importSpec struct {
	name, path string
	where      piece
}

// parsed is a cell's parts.
type parsed struct {
	cell    *cell
	imports []importSpec
	units   []*unit
	// What runs, in its order: statements as pieces, variables that are set as units.
	steps []step
	// The body of the cell's func main, and of its func init.
	mains []piece
	// The last expression, whose value is shown.
	result *piece
}

type step struct {
	piece piece
	unit  *unit
}

// complaint is an error at a place in a cell.
type complaint struct {
	cell   *cell
	offset int
	text   string
}

type complaints []complaint

func (c complaints) Error() string {
	if len(c) == 0 {
		return "no error"
	}
	return c[0].text
}

const (
	declarationPrefix = "package p;"
	statementPrefix   = "package p; func _() {"
)

// parse parts a cell; its error are complaints.
func parse(c *cell) (*parsed, error) {
	p := &parsed{cell: c}
	var bad complaints
	for _, item := range cut(c.code) {
		var err error
		if item.keyword == token.ILLEGAL {
			err = p.statements(item)
		} else {
			err = p.declaration(item)
		}
		if found, ok := err.(complaints); ok {
			bad = append(bad, found...)
		}
	}
	if len(bad) > 0 {
		return nil, bad
	}
	p.settle()
	return p, nil
}

// part parses an item behind a prefix; at gives offsets in the cell.
func (p *parsed) part(item item, prefix, suffix string) (*ast.File, func(token.Pos) int, error) {
	set := token.NewFileSet()
	text := prefix + p.cell.code[item.start:item.end] + suffix
	file, err := parser.ParseFile(set, "", text, parser.ParseComments|parser.SkipObjectResolution)
	at := func(pos token.Pos) int {
		offset := set.PositionFor(pos, false).Offset - len(prefix) + item.start
		return max(item.start, min(offset, item.end))
	}
	if err == nil {
		return file, at, nil
	}
	list, ok := err.(scanner.ErrorList)
	if !ok {
		return nil, nil, complaints{{p.cell, item.start, err.Error()}}
	}
	var bad complaints
	for _, found := range list {
		offset := max(item.start, min(found.Pos.Offset-len(prefix)+item.start, item.end))
		bad = append(bad, complaint{p.cell, offset, found.Msg})
	}
	return nil, nil, bad
}

func (p *parsed) piece(start, end int) piece {
	return piece{p.cell, start, end}
}

func (p *parsed) statements(item item) error {
	file, at, err := p.part(item, statementPrefix, "\n}")
	if err != nil {
		return err
	}
	if len(file.Decls) != 1 {
		return complaints{{p.cell, item.start, "unmatched }"}}
	}
	start := item.start
	list := file.Decls[0].(*ast.FuncDecl).Body.List
	flush := func(end int) {
		if start < end && strings.TrimSpace(p.cell.code[start:end]) != "" {
			p.steps = append(p.steps, step{piece: p.piece(start, end)})
		}
	}
	for i, statement := range list {
		assign, ok := statement.(*ast.AssignStmt)
		if ok && assign.Tok == token.DEFINE {
			if u := p.define(assign, at); u != nil {
				flush(at(statement.Pos()))
				start = at(statement.End())
				p.steps = append(p.steps, step{unit: u})
			}
		}
		expression, ok := statement.(*ast.ExprStmt)
		if ok && i == len(list)-1 && item.end >= len(strings.TrimRight(p.cell.code, " \t\r\n")) {
			flush(at(statement.Pos()))
			found := p.piece(at(expression.Pos()), at(expression.End()))
			p.result = &found
			start = at(statement.End())
		}
	}
	flush(item.end)
	return nil
}

// define makes variables of a := at top level; none of one that is no declaration.
func (p *parsed) define(assign *ast.AssignStmt, at func(token.Pos) int) *unit {
	u := &unit{kind: varUnit, short: true, inPlace: true}
	for _, left := range assign.Lhs {
		name, ok := left.(*ast.Ident)
		if !ok {
			return nil
		}
		u.names = append(u.names, name.Name)
	}
	last := assign.Rhs[len(assign.Rhs)-1]
	u.whole = p.piece(at(assign.Pos()), at(last.End()))
	u.left = p.piece(at(assign.Pos()), at(assign.TokPos))
	u.right = p.piece(at(assign.TokPos)+len(":="), at(last.End()))
	p.units = append(p.units, u)
	return u
}

func (p *parsed) declaration(item item) error {
	file, at, err := p.part(item, declarationPrefix, "\n")
	if err != nil {
		return err
	}
	for _, found := range file.Imports {
		spec := importSpec{path: strings.Trim(found.Path.Value, "\"`")}
		if found.Name != nil {
			spec.name = found.Name.Name
		}
		spec.where = p.piece(at(found.Pos()), at(found.End()))
		p.imports = append(p.imports, spec)
	}
	for _, declaration := range file.Decls {
		switch declared := declaration.(type) {
		case *ast.FuncDecl:
			p.function(declared, at)
		case *ast.GenDecl:
			p.group(declared, at)
		}
	}
	return nil
}

func (p *parsed) function(declared *ast.FuncDecl, at func(token.Pos) int) {
	name := declared.Name.Name
	start := at(declared.Pos())
	if declared.Doc != nil {
		start = at(declared.Doc.Pos())
	}
	u := &unit{kind: funcUnit, names: []string{name}, whole: p.piece(start, at(declared.End()))}
	switch {
	case declared.Recv != nil && len(declared.Recv.List) == 1:
		u.kind = methodUnit
		u.receiver = receiverName(declared.Recv.List[0].Type)
	case (name == "main" || name == "init") && declared.Body != nil:
		body := declared.Body
		p.mains = append(p.mains, p.piece(at(body.Lbrace)+1, at(body.Rbrace)))
		return
	}
	p.units = append(p.units, u)
}

func receiverName(expression ast.Expr) string {
	switch found := expression.(type) {
	case *ast.StarExpr:
		return receiverName(found.X)
	case *ast.ParenExpr:
		return receiverName(found.X)
	case *ast.IndexExpr:
		return receiverName(found.X)
	case *ast.IndexListExpr:
		return receiverName(found.X)
	case *ast.Ident:
		return found.Name
	}
	return ""
}

func (p *parsed) group(declared *ast.GenDecl, at func(token.Pos) int) {
	if declared.Tok == token.CONST {
		u := &unit{kind: constUnit, whole: p.piece(at(declared.Pos()), at(declared.End()))}
		for _, spec := range declared.Specs {
			for _, name := range spec.(*ast.ValueSpec).Names {
				u.names = append(u.names, name.Name)
			}
		}
		if len(u.names) > 0 {
			p.units = append(p.units, u)
		}
		return
	}
	for _, spec := range declared.Specs {
		switch found := spec.(type) {
		case *ast.TypeSpec:
			whole := p.piece(at(found.Pos()), at(found.End()))
			u := &unit{kind: typeUnit, names: []string{found.Name.Name}, whole: whole}
			p.units = append(p.units, u)
		case *ast.ValueSpec:
			u := &unit{kind: varUnit, whole: p.piece(at(found.Pos()), at(found.End()))}
			for _, name := range found.Names {
				u.names = append(u.names, name.Name)
			}
			u.left = p.piece(at(found.Pos()), at(found.Names[len(found.Names)-1].End()))
			if found.Type != nil {
				u.written = p.piece(at(found.Type.Pos()), at(found.Type.End()))
			}
			if values := found.Values; len(values) > 0 {
				u.right = p.piece(at(values[0].Pos()), at(values[len(values)-1].End()))
				p.steps = append(p.steps, step{unit: u})
			}
			p.units = append(p.units, u)
		}
	}
}

// settle decides where variables are set: among statements in their place, in a cell of
// declarations alone as Go orders them.
func (p *parsed) settle() {
	statements := len(p.mains) > 0 || p.result != nil
	for _, step := range p.steps {
		statements = statements || step.unit == nil || step.unit.inPlace
	}
	for _, step := range p.steps {
		if step.unit != nil {
			step.unit.inPlace = statements
		}
	}
}

// runs tells whether there is anything to run.
func (p *parsed) runs() bool {
	return len(p.steps) > 0 || len(p.mains) > 0 || p.result != nil
}

// describe is how a person is told of a complaint.
func (c complaint) describe() string {
	if c.cell == nil {
		return c.text
	}
	line, column := c.cell.position(c.offset)
	return fmt.Sprintf("%s:%d:%d: %s", cellName(c.cell.count), line, column, c.text)
}

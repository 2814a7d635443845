package main

import (
	"maps"
	"slices"
)

// session is what the cells so far have declared.
type session struct {
	imports []importSpec
	units   []*unit
}

// with is the session after a cell; what the cell declares anew is gone from older units, which are
// copied for that.
func (s *session) with(p *parsed) (*session, error) {
	next := &session{imports: slices.Clone(s.imports), units: slices.Clone(s.units)}
	declared := map[string]bool{}
	for _, u := range p.units {
		if err := declareOnce(u, declared); err != nil {
			return nil, err
		}
	}
	for _, spec := range p.imports {
		if name := spec.localName(); name != "_" && name != "." {
			declared[name] = true
		}
	}
	next.imports = slices.DeleteFunc(next.imports, func(old importSpec) bool {
		return declared[old.localName()] || slices.ContainsFunc(p.imports, old.same)
	})
	next.units = slices.DeleteFunc(next.units, func(old *unit) bool {
		if old.kind == methodUnit {
			// Methods stay with a type that is declared anew.
			return declared[old.key()] || (declared[old.receiver] && !p.declaresType(old.receiver))
		}
		return !slices.ContainsFunc(old.names, func(name string) bool {
			return name != "_" && !declared[name] && !old.gone[name]
		})
	})
	for i, old := range next.units {
		for _, name := range old.names {
			if old.kind != methodUnit && declared[name] && !old.gone[name] {
				next.units[i] = old.without(declared)
				break
			}
		}
	}
	next.imports = append(next.imports, p.imports...)
	next.units = append(next.units, p.units...)
	return next, nil
}

func declareOnce(u *unit, declared map[string]bool) error {
	if u.kind == methodUnit {
		declared[u.key()] = true
		return nil
	}
	fresh := false
	for _, name := range u.names {
		switch {
		case name == "_" || u.gone[name]:
		case !declared[name]:
			declared[name] = true
			fresh = true
		case u.short:
			if u.gone == nil {
				u.gone = map[string]bool{}
			}
			u.gone[name] = true
		default:
			return complaints{{u.whole.cell, u.whole.start, name + " is declared twice in this cell"}}
		}
	}
	if !fresh && u.short && !u.assigns {
		return complaints{{u.whole.cell, u.whole.start, "no new variables on left side of :="}}
	}
	return nil
}

func (p *parsed) declaresType(name string) bool {
	return slices.ContainsFunc(p.units, func(u *unit) bool {
		return u.kind == typeUnit && u.names[0] == name
	})
}

// without is a copy in which names are gone.
func (u *unit) without(names map[string]bool) *unit {
	next := *u
	next.gone = maps.Clone(u.gone)
	if next.gone == nil {
		next.gone = map[string]bool{}
	}
	for _, name := range u.names {
		if names[name] {
			next.gone[name] = true
		}
	}
	return &next
}

// lasts tells whether it is kept for later cells.
func (u *unit) lasts() bool {
	return slices.ContainsFunc(u.names, func(name string) bool {
		return name != "_" && !u.gone[name]
	})
}

// settle forgets what only its own cell has needed.
func (s *session) settle() {
	s.units = slices.DeleteFunc(s.units, func(u *unit) bool { return !u.lasts() })
}

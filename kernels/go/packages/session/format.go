package session

import (
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"
)

const (
	largestText = 100_000
	mostItems   = 1000
	deepest     = 8
)

// format writes a value as Go would, with pointers followed, String and Error used.
func format(value any) string {
	var p printer
	p.value(reflect.ValueOf(value), 0, false)
	return p.String()
}

type printer struct {
	strings.Builder
}

// value writes v; with typed, its type is told by what surrounds it.
func (p *printer) value(v reflect.Value, depth int, typed bool) {
	if !v.IsValid() {
		p.WriteString("nil")
		return
	}
	if p.Len() > largestText || depth > deepest {
		p.WriteString("...")
		return
	}
	if p.method(v) {
		return
	}
	switch v.Kind() {
	case reflect.String:
		p.named(v, typed, strconv.Quote(v.String()))
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr,
		reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
		p.named(v, typed, fmt.Sprint(v))
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.IsNil() {
			p.WriteString("nil")
			return
		}
		p.name(v.Type(), typed)
		p.items(v.Len(), func(i int) { p.value(v.Index(i), depth+1, true) })
	case reflect.Map:
		if v.IsNil() {
			p.WriteString("nil")
			return
		}
		p.name(v.Type(), typed)
		p.entries(v, depth)
	case reflect.Struct:
		p.name(v.Type(), typed)
		p.items(v.NumField(), func(i int) {
			p.WriteString(v.Type().Field(i).Name + ": ")
			p.value(v.Field(i), depth+1, v.Field(i).Kind() <= reflect.Complex128)
		})
	case reflect.Pointer:
		if v.IsNil() {
			p.WriteString("nil")
			return
		}
		if v.Elem().Kind() == reflect.Struct {
			p.WriteString("&")
			p.value(v.Elem(), depth+1, typed)
			return
		}
		p.WriteString(fmt.Sprintf("(%s)(%#x)", typeName(v.Type()), v.Pointer()))
	case reflect.Interface:
		p.value(v.Elem(), depth, false)
	default:
		if v.IsNil() {
			p.WriteString("nil")
			return
		}
		p.WriteString(typeName(v.Type()))
	}
}

// method uses a value's own words, and tells whether it has any.
func (p *printer) method(v reflect.Value) (done bool) {
	if !v.CanInterface() || (v.Kind() == reflect.Pointer && v.IsNil()) {
		return false
	}
	// A String method that fails is the same as none.
	defer func() {
		if recover() != nil {
			done = false
		}
	}()
	switch words := v.Interface().(type) {
	case error:
		p.WriteString(words.Error())
		return true
	case fmt.Stringer:
		p.WriteString(words.String())
		return true
	}
	return false
}

// named writes a plain value, with its type if that is not the usual one for such a value.
func (p *printer) named(v reflect.Value, typed bool, text string) {
	switch v.Type() {
	case reflect.TypeFor[string](), reflect.TypeFor[int](), reflect.TypeFor[float64](),
		reflect.TypeFor[bool](), reflect.TypeFor[complex128]():
		typed = true
	}
	if typed {
		p.WriteString(text)
		return
	}
	p.WriteString(typeName(v.Type()) + "(" + text + ")")
}

func (p *printer) name(t reflect.Type, typed bool) {
	if !typed || t.Name() == "" && t.Kind() == reflect.Struct {
		p.WriteString(typeName(t))
	}
}

func (p *printer) items(count int, item func(int)) {
	p.WriteString("{")
	for i := range count {
		if i > 0 {
			p.WriteString(", ")
		}
		if i == mostItems || p.Len() > largestText {
			p.WriteString(fmt.Sprintf("... %d more", count-i))
			break
		}
		item(i)
	}
	p.WriteString("}")
}

func (p *printer) entries(v reflect.Value, depth int) {
	type entry struct {
		text  string
		value reflect.Value
		key   reflect.Value
	}
	var entries []entry
	for i, step := 0, v.MapRange(); i <= mostItems && step.Next(); i++ {
		var key printer
		key.value(step.Key(), depth+1, true)
		entries = append(entries, entry{key.String(), step.Value(), step.Key()})
	}
	sort.Slice(entries, func(i, j int) bool {
		left, right := entries[i], entries[j]
		switch {
		case left.key.CanInt() && right.key.CanInt():
			return left.key.Int() < right.key.Int()
		case left.key.CanUint() && right.key.CanUint():
			return left.key.Uint() < right.key.Uint()
		case left.key.CanFloat() && right.key.CanFloat():
			return left.key.Float() < right.key.Float()
		}
		return left.text < right.text
	})
	count := v.Len()
	p.items(count, func(i int) {
		p.WriteString(entries[i].text + ": ")
		p.value(entries[i].value, depth+1, true)
	})
}

func typeName(t reflect.Type) string {
	name := strings.ReplaceAll(t.String(), "main.", "")
	return strings.ReplaceAll(name, "interface {}", "any")
}

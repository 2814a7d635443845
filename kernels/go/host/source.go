package main

import (
	"fmt"
	"sort"
	"strings"
)

// running is the number that the cell which runs has in what is compiled, so that the same cell
// again is the same program.
const running = 0

// cell is code as it came.
type cell struct {
	count int
	code  string
	lines []int
	// Offsets in the code at which something is put into what is compiled.
	inserts map[int]string
}

func newCell(count int, code string) *cell {
	lines := []int{0}
	for i := range len(code) {
		if code[i] == '\n' {
			lines = append(lines, i+1)
		}
	}
	return &cell{count: count, code: code, lines: lines, inserts: map[int]string{}}
}

// position is the line and column, from 1, of an offset.
func (c *cell) position(offset int) (line, column int) {
	line = sort.Search(len(c.lines), func(i int) bool { return c.lines[i] > offset })
	return line, offset - c.lines[line-1] + 1
}

// line is a line's text, empty if there is none such.
func (c *cell) line(number int) string {
	if number < 1 || number > len(c.lines) {
		return ""
	}
	rest := c.code[c.lines[number-1]:]
	text, _, _ := strings.Cut(rest, "\n")
	return strings.TrimRight(text, "\r")
}

func cellName(count int) string {
	if count == running {
		return "Cell In[*]"
	}
	return fmt.Sprintf("Cell In[%d]", count)
}

// piece is code[start:end] of a cell.
type piece struct {
	cell       *cell
	start, end int
}

func (p piece) text() string {
	return p.cell.code[p.start:p.end]
}

// origin tells where in a written text a piece begins.
type origin struct {
	at int
	piece
}

// writer puts a source text together out of pieces of cells and words of our own.
type writer struct {
	strings.Builder
	// The cell that runs: its name in positions is that of no number.
	current *cell
	// Whether to write what the cells' inserts say.
	inserting bool
	origins   []origin
}

func (w *writer) words(format string, values ...any) {
	fmt.Fprintf(w, format, values...)
}

func (w *writer) name(c *cell) string {
	if c == w.current {
		return cellName(running)
	}
	return cellName(c.count)
}

// at has positions count from an offset of a cell from here on.
func (w *writer) at(c *cell, offset int) {
	line, column := c.position(offset)
	w.words("/*line %s:%d:%d*/", w.name(c), line, column)
}

func (w *writer) piece(p piece) {
	start := p.start
	w.at(p.cell, start)
	w.origins = append(w.origins, origin{w.Len(), p})
	if w.inserting {
		var offsets []int
		for offset := range p.cell.inserts {
			if p.start < offset && offset <= p.end {
				offsets = append(offsets, offset)
			}
		}
		sort.Ints(offsets)
		for _, offset := range offsets {
			w.WriteString(p.cell.code[start:offset])
			w.WriteString(p.cell.inserts[offset])
			w.at(p.cell, offset)
			start = offset
		}
	}
	w.WriteString(p.cell.code[start:p.end])
}

// find tells which offset of which cell an offset of the written text is; no cell if our own words
// are there. Only for a text without inserts.
func (w *writer) find(at int) (*cell, int) {
	i := sort.Search(len(w.origins), func(i int) bool { return w.origins[i].at > at }) - 1
	if i < 0 {
		return nil, 0
	}
	found := w.origins[i]
	offset := found.start + at - found.at
	if offset > found.end {
		return nil, 0
	}
	return found.cell, offset
}

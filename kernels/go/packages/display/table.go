package display

import (
	"fmt"
	"html"
	"reflect"
	"sort"
	"strings"
)

const mostRows = 1000

// Table shows rows: a slice of structs, of maps with string keys, or of slices whose first is the
// head, as in [][]string.
func Table(rows any) *Display { return fresh().Table(rows) }

// Table shows rows in place of what d shows.
func (d *Display) Table(rows any) *Display {
	head, body := tabulate(reflect.ValueOf(rows))
	more := ""
	if len(body) > mostRows {
		more = fmt.Sprintf("%d more rows", len(body)-mostRows)
		body = body[:mostRows]
	}
	var text, page strings.Builder
	page.WriteString("<table><thead><tr>")
	for _, cell := range head {
		page.WriteString("<th>" + html.EscapeString(cell) + "</th>")
	}
	page.WriteString("</tr></thead><tbody>")
	for _, row := range body {
		page.WriteString("<tr>")
		for _, cell := range row {
			page.WriteString("<td>" + html.EscapeString(cell) + "</td>")
		}
		page.WriteString("</tr>")
	}
	page.WriteString("</tbody></table>")
	align(&text, append([][]string{head}, body...))
	if more != "" {
		page.WriteString("<p>" + more + "</p>")
		text.WriteString(more + "\n")
	}
	return d.Show(map[string]any{
		"text/html": page.String(), "text/plain": strings.TrimRight(text.String(), "\n"),
	})
}

func tabulate(rows reflect.Value) (head []string, body [][]string) {
	if !rows.IsValid() || (rows.Kind() != reflect.Slice && rows.Kind() != reflect.Array) {
		panic(fmt.Errorf("display: a table is a slice of structs, maps or slices"))
	}
	for i := range rows.Len() {
		row := rows.Index(i)
		for row.Kind() == reflect.Interface || row.Kind() == reflect.Pointer {
			row = row.Elem()
		}
		var cells []string
		switch row.Kind() {
		case reflect.Struct:
			for j := range row.NumField() {
				field := row.Type().Field(j)
				if !field.IsExported() && row.NumField() > 0 {
					continue
				}
				if i == 0 {
					head = append(head, field.Name)
				}
				cells = append(cells, fmt.Sprint(row.Field(j)))
			}
		case reflect.Map:
			if i == 0 {
				for _, key := range row.MapKeys() {
					head = append(head, fmt.Sprint(key))
				}
				sort.Strings(head)
			}
			found := map[string]string{}
			for _, key := range row.MapKeys() {
				found[fmt.Sprint(key)] = fmt.Sprint(row.MapIndex(key))
			}
			for _, name := range head {
				cells = append(cells, found[name])
			}
		case reflect.Slice, reflect.Array:
			for j := range row.Len() {
				cells = append(cells, fmt.Sprint(row.Index(j)))
			}
			if i == 0 {
				head = cells
				continue
			}
		default:
			head = []string{"value"}
			cells = []string{fmt.Sprint(row)}
		}
		body = append(body, cells)
	}
	return head, body
}

// align writes rows in columns.
func align(to *strings.Builder, rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for _, row := range rows {
		line := ""
		for i, cell := range row {
			line += cell + strings.Repeat(" ", widths[i]-len([]rune(cell))+2)
		}
		to.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

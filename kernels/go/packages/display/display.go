// Package display shows more than text: HTML, images, tables and so on.
//
// Output that was printed before comes before it, what is printed afterwards comes after it.
package display

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"os"

	"kernelagent/channel"
)

// Display is something shown, which can be replaced: its methods do so.
type Display struct {
	id    string
	shown bool
}

// New is a display with an id of the caller's; its first method call shows it.
func New(id string) *Display {
	return &Display{id: id}
}

// Update is the display that was shown with an id, perhaps by another cell.
func Update(id string) *Display {
	return &Display{id: id, shown: true}
}

func fresh() *Display {
	var bytes [8]byte
	// crypto/rand does not fail: it ends the program if it cannot read.
	_, _ = rand.Read(bytes[:])
	return &Display{id: hex.EncodeToString(bytes[:])}
}

// ID names the display.
func (d *Display) ID() string {
	return d.id
}

// Show shows data by MIME type: text as string, images as []byte, anything else as JSON.
func Show(data map[string]any) *Display {
	return fresh().Show(data)
}

// Show shows data in place of what d shows.
func (d *Display) Show(data map[string]any) *Display {
	bundle := make(map[string]any, len(data))
	for kind, value := range data {
		if raw, ok := value.([]byte); ok {
			value = base64.StdEncoding.EncodeToString(raw)
		}
		bundle[kind] = value
	}
	if _, ok := bundle["text/plain"]; !ok {
		bundle["text/plain"] = plain(bundle)
	}
	send(map[string]any{
		"op": "display", "data": bundle, "metadata": map[string]any{}, "display_id": d.id,
		"update": d.shown,
	}, fmt.Sprint(bundle["text/plain"]))
	d.shown = true
	return d
}

func plain(bundle map[string]any) string {
	for _, kind := range []string{"text/markdown", "text/latex", "text/html"} {
		if text, ok := bundle[kind].(string); ok && kind != "text/html" {
			return text
		}
	}
	for kind := range bundle {
		return "<" + kind + ">"
	}
	return ""
}

// send panics on what cannot be written as JSON: that is a fault of its caller's.
func send(content map[string]any, otherwise string) {
	line, err := json.Marshal(content)
	if err != nil {
		panic(fmt.Errorf("display: %w", err))
	}
	_, err = channel.Exchange(line)
	if errors.Is(err, channel.ErrAlone) && otherwise != "" {
		fmt.Fprintln(os.Stdout, otherwise)
	}
}

// Text shows plain text.
func Text(text string) *Display { return fresh().Text(text) }

// Text shows plain text in place of what d shows.
func (d *Display) Text(text string) *Display {
	return d.Show(map[string]any{"text/plain": text})
}

// HTML shows a piece of HTML.
func HTML(text string) *Display { return fresh().HTML(text) }

// HTML shows a piece of HTML in place of what d shows.
func (d *Display) HTML(text string) *Display {
	return d.Show(map[string]any{"text/html": text})
}

// Markdown shows text in Markdown.
func Markdown(text string) *Display { return fresh().Markdown(text) }

// Markdown shows text in Markdown in place of what d shows.
func (d *Display) Markdown(text string) *Display {
	return d.Show(map[string]any{"text/markdown": text})
}

// Latex shows a formula or text in LaTeX.
func Latex(text string) *Display { return fresh().Latex(text) }

// Latex shows LaTeX in place of what d shows.
func (d *Display) Latex(text string) *Display {
	return d.Show(map[string]any{"text/latex": text})
}

// SVG shows a picture written in SVG.
func SVG(text string) *Display { return fresh().SVG(text) }

// SVG shows a picture written in SVG in place of what d shows.
func (d *Display) SVG(text string) *Display {
	return d.Show(map[string]any{"image/svg+xml": text})
}

// JSON shows a value as JSON; it panics if it cannot be written so.
func JSON(value any) *Display { return fresh().JSON(value) }

// JSON shows a value as JSON in place of what d shows.
func (d *Display) JSON(value any) *Display {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		panic(fmt.Errorf("display: %w", err))
	}
	return d.Show(map[string]any{"application/json": value, "text/plain": string(text)})
}

// PNG shows a picture: its file as []byte, or an image.Image.
func PNG(picture any) *Display { return fresh().PNG(picture) }

// PNG shows a picture in place of what d shows: its file as []byte, or an image.Image.
func (d *Display) PNG(picture any) *Display {
	return d.picture("image/png", picture)
}

// Image shows a picture.
func Image(picture image.Image) *Display { return fresh().PNG(picture) }

// JPEG shows a picture: its file as []byte, or an image.Image, which is sent as PNG.
func JPEG(picture any) *Display { return fresh().JPEG(picture) }

// JPEG shows a picture in place of what d shows.
func (d *Display) JPEG(picture any) *Display {
	return d.picture("image/jpeg", picture)
}

func (d *Display) picture(kind string, picture any) *Display {
	switch found := picture.(type) {
	case []byte:
		return d.Show(map[string]any{kind: found})
	case image.Image:
		var file bytes.Buffer
		if err := png.Encode(&file, found); err != nil {
			panic(fmt.Errorf("display: %w", err))
		}
		size := found.Bounds().Size()
		return d.Show(map[string]any{
			"image/png":  file.Bytes(),
			"text/plain": fmt.Sprintf("<image of %d x %d>", size.X, size.Y),
		})
	}
	panic(fmt.Errorf("display: %T is neither []byte nor an image.Image", picture))
}

// Clear takes back what the cell has shown; with wait, once something new is shown.
func Clear(wait bool) {
	send(map[string]any{"op": "clear", "wait": wait}, "")
}

// Ask asks for a line of input; its error says that nobody can answer.
func Ask(prompt string) (string, error) {
	return ask(prompt, false)
}

// Password is Ask for what must not be seen.
func Password(prompt string) (string, error) {
	return ask(prompt, true)
}

func ask(prompt string, password bool) (string, error) {
	line, err := json.Marshal(map[string]any{"op": "ask", "prompt": prompt, "password": password})
	if err != nil {
		return "", err
	}
	return channel.Exchange(line)
}

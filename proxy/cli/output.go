package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"

	"hubcap/proxy/admin/words"
)

// plain returns a text of a hubcap as it may be written to a terminal: in one line,
// without control characters. Clients and registries choose parts of such texts.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

// output is what a command prints, made in memory, with times on the user's clock.
type output struct {
	strings.Builder
	words.Moment
}

// line adds a line.
func (o *output) line(format string, args ...any) {
	o.WriteString(plain(fmt.Sprintf(format, args...)) + "\n")
}

// table adds rows below a heading, or without one, in columns whose width follows from
// what is in them.
func (o *output) table(heading []string, rows [][]string) {
	w := tabwriter.NewWriter(o, 0, 0, 2, ' ', 0)
	if heading != nil {
		rows = append([][]string{heading}, rows...)
	}
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, one := range row {
			cells[i] = plain(one)
		}
		_, _ = fmt.Fprintln(w, strings.TrimRight(strings.Join(cells, "\t"), "\t")) // memory has no errors
	}
	_ = w.Flush()
}

// list adds a table, or a sentence where it has no rows.
func (o *output) list(none string, heading []string, rows [][]string) {
	if len(rows) == 0 {
		o.line("%s", none)
		return
	}
	o.table(heading, rows)
}

// tabulate adds a table with a row for each of all, or a sentence where there are none.
func tabulate[T any](o *output, none string, heading []string, all []T, cells func(T) []string) {
	rows := make([][]string, len(all))
	for i, one := range all {
		rows[i] = cells(one)
	}
	o.list(none, heading, rows)
}

// print prints what write makes.
func (p *program) print(write func(o *output)) error {
	o := output{Moment: words.Moment{Now: p.Now().Local()}}
	write(&o)
	_, err := io.WriteString(p.Stdout, o.String())
	return err
}

// writeJSON writes a JSON document of a hubcap with line breaks.
func writeJSON(w io.Writer, document []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(document), "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(w)
	return err
}

// printJSON prints an answer that was decoded.
func (p *program) printJSON(answer any) error {
	document, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return writeJSON(p.Stdout, document)
}

// reply prints an answer, by write or as the JSON document that came.
func reply[T any](p *program, document []byte, answer T, write func(o *output, answer T)) error {
	if p.asJSON {
		return writeJSON(p.Stdout, document)
	}
	return p.print(func(o *output) { write(o, answer) })
}

// printAnswer prints an answer, by write or as JSON.
func printAnswer[T any](p *program, answer T, write func(o *output, answer T)) error {
	if p.asJSON {
		return p.printJSON(answer)
	}
	return p.print(func(o *output) { write(o, answer) })
}

// say prints a sentence.
func (p *program) say(format string, args ...any) error {
	return p.print(func(o *output) { o.line(format, args...) })
}

// sentence makes one sentence of several parts.
func sentence(parts []string) string { return strings.Join(parts, "; ") + "." }

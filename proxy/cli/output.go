package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
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

// table writes columns, whose width follows from what is in them.
type table struct{ w *tabwriter.Writer }

// newTable returns a table with a heading, or without one.
func newTable(w io.Writer, heading ...string) *table {
	t := &table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	if len(heading) > 0 {
		t.row(heading...)
	}
	return t
}

// row adds a row. Nothing is written before end.
func (t *table) row(cells ...string) {
	for i, one := range cells {
		cells[i] = plain(one)
	}
	_, _ = fmt.Fprintln(t.w, strings.TrimRight(strings.Join(cells, "\t"), "\t")) // end has the error
}

func (t *table) end() error { return t.w.Flush() }

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

// size returns a number of bytes in decimal units, as docker writes them.
func size(n int64) string {
	v, units := float64(n), []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	i := 0
	for ; v >= 999.5; i++ {
		v /= 1000
	}
	if i > 0 && v < 9.95 {
		return fmt.Sprintf("%.1f %s", v, units[i])
	}
	return fmt.Sprintf("%.0f %s", v, units[i])
}

// sizeOf returns a part of a number of bytes: 138 of 151 MB.
func sizeOf(part, whole int64) string {
	p, w := size(part), size(whole)
	if number, unit, _ := strings.Cut(p, " "); part == 0 || strings.HasSuffix(w, " "+unit) {
		p = number
	}
	return p + " of " + w
}

// percent returns a share of 0 to 1. What is not all is not 100 %.
func percent(share float64) string {
	if share < 1 {
		share = min(share, .99)
	}
	return fmt.Sprintf("%.0f %%", share*100)
}

// span returns a duration in its largest unit.
func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	default:
		return fmt.Sprintf("%d d", d/(24*time.Hour))
	}
}

func seconds(n int64) string { return span(time.Duration(n) * time.Second) }

// ago returns how long a time is past.
func (p *program) ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return span(p.Now().Sub(t)) + " ago"
}

// clock returns a time as the user's clock shows it, without the date if that is
// today.
func (p *program) clock(t time.Time) string {
	t, now := t.Local(), p.Now().Local()
	if t.Year() == now.Year() && t.YearDay() == now.YearDay() {
		return t.Format("15:04")
	}
	return t.Format("2006-01-02 15:04")
}

// count returns a number with the word for what is counted.
func count[N int | int64](n N, word string) string {
	if n == 1 {
		return "1 " + word
	}
	if strings.HasSuffix(word, "y") {
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(word, "y"))
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// short returns a digest as docker shortens it.
func short(digest string) string {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return algorithm + ":" + hex[:min(len(hex), 12)]
}

// Command bench measures hubcap side by side with what else could stand in its
// place: a plain Go file server, nginx, distribution's proxy mode, and no cache
// at all. All of them serve the same content in one run, from the same
// stand-in for Docker Hub with its latency and caps. Bodies are checked against their
// digests, except where the row is about the server's processor time or the client
// drops them.
//
//	go run ./e2e/bench                                        prints the table
//	go run ./e2e/bench -write deploy/docs/benchmarks.md       also writes it into that file
//
// nginx and distribution (the program registry) are left out where they are
// not in PATH. It runs on Linux, and wants a machine that does nothing else.
//
// Files: main.go (the run and the tables), rows.go and coldimages.go (what is
// measured), tls.go (what is held, over TLS), idle.go (connections that wait),
// drop.go (clients that drop bodies), beside.go (what is held, while other things
// are fetched), fills.go (many layers at once), site.go (several boxes), pull.go
// (clients), contenders.go (what is measured against what), process.go.
package main

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	reps := flag.Int("reps", 3, "how often each figure is measured; the median counts")
	only := flag.String("only", "", "measure the rows whose name has this in it")
	document := flag.String("write", "", "also write the table into this file, between its markers: deploy/docs/benchmarks.md")
	plain := flag.String("plain", "", "serve the files of this directory (what the run starts for itself)")
	probe := flag.String("probe", "", "time pulls of this address until the input ends (what the run starts for itself)")
	var plainPair pair
	flag.StringVar(&plainPair.certificate, "certificate", "", "serve them over TLS with this certificate")
	flag.StringVar(&plainPair.key, "key", "", "its key")
	flag.Parse()
	var err error
	switch {
	case *plain != "":
		err = servePlain(*plain, plainPair)
	case *probe != "":
		err = printP99(*probe)
	default:
		err = run(*reps, *only, *document)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(reps int, only, document string) error {
	b, err := newBench(reps)
	if err != nil {
		return err
	}
	defer b.close()
	for _, t := range []*table{
		{marker: "measured", names: names, measurements: measurements}, {marker: "sites", names: siteNames, measurements: siteMeasurements},
	} {
		if err := b.run(t, only); err != nil {
			return err
		}
		if document == "" || len(t.rows) == 0 {
			continue
		}
		if err := replaceBetween(document, "<!-- "+t.marker+" -->\n", "<!-- /"+t.marker+" -->\n", t.about+"\n\n"+t.markdown()); err != nil {
			return err
		}
	}
	return nil
}

// run measures the rows of a table whose name has only in it, and prints them.
func (b *bench) run(t *table, only string) error {
	t.about = b.about()
	fmt.Println(t.about)
	for _, m := range t.measurements {
		if !strings.Contains(m.name, only) {
			continue
		}
		began := time.Now()
		rows, err := m.measure(b)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		fmt.Printf("%s (%.0fs)\n", m.name, time.Since(began).Seconds())
		for _, r := range rows {
			t.rows = append(t.rows, r)
			fmt.Println(r.text(t.names))
		}
	}
	fmt.Printf("\n%s", t.markdown())
	return nil
}

// measurement makes rows of a table.
type measurement struct {
	name    string
	measure func(b *bench) ([]row, error)
}

// table is measurements of the same contenders.
type table struct {
	marker       string   // of its place in the document
	names        []string // of the contenders
	measurements []measurement
	about        string // what was measured where
	rows         []row
}

// row is a line of the table: one figure of each contender.
type row struct {
	what  string
	unit  string               // of the figures
	cells map[string][]float64 // by contender; all repetitions
	words map[string]string    // instead of figures
	of    string               // the contender whose ratio is given; hubcap if empty
	to    string               // the contender that it is to, or ""
	must  string               // the bar
}

func (r row) cell(name string) string {
	if word, ok := r.words[name]; ok {
		return word
	}
	if len(r.cells[name]) == 0 {
		return "–"
	}
	return strings.TrimSpace(figure(median(r.cells[name])) + " " + r.unit)
}

// ratio is a contender's figure by that of the one it is held against.
func (r row) ratio() string {
	of := cmp.Or(r.of, hubcapName)
	if r.to == "" || len(r.cells[of]) == 0 || len(r.cells[r.to]) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f of %s", median(r.cells[of])/median(r.cells[r.to]), r.to)
}

func (r row) text(names []string) string {
	var cells []string
	for _, name := range names {
		if c := r.cell(name); c != "–" {
			cells = append(cells, name+" "+c)
		}
	}
	return fmt.Sprintf("  %s: %s; %s (must: %s)", r.what, strings.Join(cells, ", "), r.ratio(), r.must)
}

func (t *table) markdown() string {
	ratio := "hubcap's ratio"
	if t.names[0] != hubcapName {
		ratio = "ratio"
	}
	var out strings.Builder
	fmt.Fprintf(&out, "| what | %s | %s | must |\n|%s\n", strings.Join(t.names, " | "), ratio, strings.Repeat("---|", len(t.names)+3))
	for _, r := range t.rows {
		cells := []string{r.what}
		for _, name := range t.names {
			cells = append(cells, r.cell(name))
		}
		fmt.Fprintf(&out, "| %s | %s | %s |\n", strings.Join(cells, " | "), r.ratio(), r.must)
	}
	return out.String()
}

// about says what was measured where and when.
func (b *bench) about() string {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		load = []byte("unknown")
	}
	commit, err := exec.Command("git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		commit = []byte("unknown")
	}
	if changed, err := exec.Command("git", "status", "--porcelain", "--", "*.go", "go.mod").Output(); err == nil && len(changed) > 0 {
		commit = append(bytes.TrimSpace(commit), " and changes"...)
	}
	return fmt.Sprintf("Measured on %s at commit %s, %d cores, load average before %s, medians of %d.",
		time.Now().Format(time.DateOnly), bytes.TrimSpace(commit), runtime.NumCPU(), strings.Join(strings.Fields(string(load))[:1], ""), b.reps)
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// figure prints three digits that mean something.
func figure(f float64) string {
	switch {
	case f >= 100 || f == float64(int64(f)):
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	default:
		return fmt.Sprintf("%.2f", f)
	}
}

// replaceBetween puts text between two lines of a file.
func replaceBetween(name, from, to, text string) error {
	old, err := os.ReadFile(filepath.Clean(name))
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), from)
	_, after, ok2 := strings.Cut(rest, to)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q", name, strings.TrimSpace(from), strings.TrimSpace(to))
	}
	return os.WriteFile(name, []byte(before+from+text+to+after), 0o600)
}

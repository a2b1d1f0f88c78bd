// Command bench measures hubcap side by side with what else could stand in its
// place: a plain Go file server, nginx, distribution's proxy mode, and no cache
// at all. All of them serve the same content in one run, from the same
// stand-in for Docker Hub with its latency and caps, and every body is checked
// against its digest.
//
//	go run ./e2e/bench                                        prints the table
//	go run ./e2e/bench -write deploy/docs/benchmarks.md       also writes it into that file
//
// nginx and distribution (the program registry) are left out where they are
// not in PATH. It runs on Linux, and wants a machine that does nothing else.
//
// Files: main.go (the run and the table), rows.go (what is measured), pull.go
// (clients), contenders.go (what is measured against what), process.go.
package main

import (
	"bytes"
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
	flag.Parse()
	var err error
	if *plain != "" {
		err = servePlain(*plain)
	} else {
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
	about := b.about()
	fmt.Println(about)
	for _, m := range measurements {
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
			b.table = append(b.table, r)
			fmt.Println(r)
		}
	}
	fmt.Printf("\n%s", b.markdown())
	if document == "" {
		return nil
	}
	return replaceBetween(document, "<!-- measured -->\n", "<!-- /measured -->\n", about+"\n\n"+b.markdown())
}

// row is a line of the table: one figure of each contender.
type row struct {
	what  string
	unit  string               // of the figures
	cells map[string][]float64 // by contender; all repetitions
	words map[string]string    // instead of figures
	to    string               // the contender that hubcap's ratio is to, or ""
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

// ratio is hubcap's figure by that of the contender it is held against.
func (r row) ratio() string {
	if r.to == "" || len(r.cells[hubcapName]) == 0 || len(r.cells[r.to]) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f of %s", median(r.cells[hubcapName])/median(r.cells[r.to]), r.to)
}

func (r row) String() string {
	var cells []string
	for _, name := range names {
		if c := r.cell(name); c != "–" {
			cells = append(cells, name+" "+c)
		}
	}
	return fmt.Sprintf("  %s: %s; %s (must: %s)", r.what, strings.Join(cells, ", "), r.ratio(), r.must)
}

func (b *bench) markdown() string {
	var t strings.Builder
	fmt.Fprintf(&t, "| what | %s | hubcap's ratio | must |\n|%s\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)+3))
	for _, r := range b.table {
		cells := []string{r.what}
		for _, name := range names {
			cells = append(cells, r.cell(name))
		}
		fmt.Fprintf(&t, "| %s | %s | %s |\n", strings.Join(cells, " | "), r.ratio(), r.must)
	}
	return t.String()
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

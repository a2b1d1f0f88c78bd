package logging

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"hubcap/e2e/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// soon is how long a test waits for what should happen at once.
const soon = testkit.Patience

// file is what a log is written to. Each write waits for its turn, and fails
// with the error of that.
type file struct {
	testkit.Log
	begun chan struct{} // one for each write
	turns chan turn
}

type turn struct {
	most int // bytes that are written
	err  error
}

func newFile() *file { return &file{begun: make(chan struct{}, 1000), turns: make(chan turn, 1000)} }

func (f *file) Write(p []byte) (int, error) {
	f.begun <- struct{}{}
	t, ok := <-f.turns
	if !ok || t.err == nil {
		return f.Log.Write(p)
	}
	n, _ := f.Log.Write(p[:min(t.most, len(p))])
	return n, t.err
}

func newLog(t *testing.T, out io.Writer, buffer int) *Log {
	t.Helper()
	l := New(Options{Out: out, JSON: true, Level: slog.LevelInfo, Buffer: buffer})
	t.Cleanup(func() { l.Close(soon) })
	return l
}

// messages returns those of the lines, and how many lines they report as lost.
func (f *file) messages(t *testing.T) (all []string, lost int) {
	t.Helper()
	for text := range strings.Lines(f.String()) {
		var line struct {
			Msg, Text string
			Lines     int
		}
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Errorf("%q is no line: %v", text, err)
		}
		all, lost = append(all, line.Msg+line.Text), lost+line.Lines
	}
	return all, lost
}

func TestLines(t *testing.T) {
	f := newFile()
	close(f.turns)
	l := newLog(t, f, 1<<20)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 100 {
				l.Info("a line", "i", i)
			}
		})
	}
	all.Wait()
	l.Debug("not wanted")
	l.Flush(soon)
	if got, lost := f.messages(t); len(got) != 800 || lost != 0 || l.Lost() != 0 {
		t.Errorf("%d lines, %d lost, %d counted; want all 800", len(got), lost, l.Lost())
	}
}

// TestStuck has a file block for a while: no caller waits, and the lost lines
// are reported where they are missing.
func TestStuck(t *testing.T) {
	f := newFile()
	l := newLog(t, f, 1000)
	l.Info("first")
	<-f.begun // and it goes no further
	for range 100 {
		l.Info("second")
	}
	began := time.Now()
	l.Flush(time.Millisecond)
	if took := time.Since(began); took > soon {
		t.Errorf("waited %v for a file that is stuck", took)
	}
	lost := int(l.Lost())
	if lost == 0 {
		t.Fatal("a thousand bytes hold all of it")
	}
	close(f.turns)
	l.Flush(soon)
	l.Info("third")
	l.Flush(soon)
	got, told := f.messages(t)
	if told != lost || int(l.Lost()) != lost {
		t.Errorf("%d lines are told of and %d counted, %d were lost", told, l.Lost(), lost)
	}
	if want := 101 - lost + 2; len(got) != want || got[len(got)-2] != "lines of the log were lost" || got[len(got)-1] != "third" {
		t.Errorf("%d lines: %q; want %d, the gap before the last one", len(got), got, want)
	}
}

// TestFailingFile: lines that could not be written, or only in part, are counted
// as lost, each once.
func TestFailingFile(t *testing.T) {
	broken := errors.New("broken")
	f := newFile()
	l := newLog(t, f, 1<<20)
	for i, turn := range []turn{{}, {0, broken}, {10, broken}, {10, broken}, {0, broken}, {}} {
		f.turns <- turn
		l.Info(fmt.Sprint("line ", i))
		l.Flush(soon)
	}
	close(f.turns)
	text := strings.ReplaceAll(f.String(), "\n\n", "\n")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if last := lines[len(lines)-1]; l.Lost() != 4 || !strings.Contains(last, `"line 5"`) || !strings.Contains(text, `"lines":4}`) {
		t.Errorf("%d lines are counted as lost, want 4; the log:\n%s", l.Lost(), text)
	}
	for _, line := range lines {
		if !json.Valid([]byte(line)) && len(line) > 10 {
			t.Errorf("%q is neither a line nor the beginning of one", line)
		}
	}
}

// TestClose: Close writes what is buffered, for no longer than it may.
func TestClose(t *testing.T) {
	f := newFile()
	l := newLog(t, f, 1000)
	l.Info("first")
	<-f.begun
	for range 100 {
		l.Info("second")
	}
	l.Close(time.Millisecond)
	l.Info("late")
	close(f.turns)
	l.Close(soon)
	got, told := f.messages(t)
	if got[len(got)-1] != "lines of the log were lost" || told != int(l.Lost())-1 && told != int(l.Lost()) {
		t.Errorf("%q; %d lines are told of and %d counted", got, told, l.Lost())
	}

	f = newFile()
	l = newLog(t, f, 10) // less than a line
	l.Info("first")
	f.turns <- turn{0, errors.New("broken")}
	l.Close(soon)
	if n := l.Lost(); n != 1 {
		t.Errorf("%d lines are counted as lost, want 1", n)
	}
}

// TestCapture logs what others write.
func TestCapture(t *testing.T) {
	f := newFile()
	close(f.turns)
	l := newLog(t, f, 1<<20)
	release, err := l.Capture()
	if err != nil {
		t.Fatal(err)
	}
	stdlog.Print("from the standard library's log")
	if got, _ := f.messages(t); len(got) != 1 { // without a Flush, as log.Fatal has none
		t.Errorf("%q, want one line", got)
	}
	slog.Info("from slog")
	fmt.Fprintf(os.Stderr, "two\nlines, the last of which %s", strings.Repeat("is long ", maxCaptured/8))
	own := os.Stderr
	release(soon)
	l.Flush(soon)
	if os.Stderr == own {
		t.Error("os.Stderr is not released")
	}
	got, _ := f.messages(t)
	if len(got) != 5 || got[0] != "standard errorfrom the standard library's log" || got[1] != "from slog" || got[2] != "standard errortwo" {
		t.Errorf("%.500q", got)
	}
}

// BenchmarkLine measures what one line costs its caller.
func BenchmarkLine(b *testing.B) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	l := New(Options{Out: null, Level: slog.LevelInfo, Buffer: 1 << 20})
	defer l.Close(soon)
	b.ReportAllocs()
	for b.Loop() {
		l.LogAttrs(b.Context(), slog.LevelInfo, "request", slog.String("method", "GET"), slog.Int("status", 200))
	}
}

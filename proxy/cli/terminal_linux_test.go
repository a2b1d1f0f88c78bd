package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hubcap/e2e/fakehub"
)

// terminal returns a terminal, and the side at which its user sits.
func terminal(t *testing.T) (tty, user *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("there are no terminals here: ", err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return tty, user
}

// onTerminal runs a command at a terminal whose user types an answer.
func (h *hubcap) onTerminal(line, answer string) (shown string, code int) {
	h.T.Helper()
	tty, user := terminal(h.T)
	if _, err := user.WriteString(answer); err != nil {
		h.T.Fatal(err)
	}
	var out bytes.Buffer
	err := Run(context.Background(), strings.Fields(line), Options{Environ: h.environ, Stdin: tty, Stdout: &out, Stderr: tty})
	code = Report(tty, err)
	tty.Close()
	text, _ := io.ReadAll(user) // ends with an error: nobody is at the other side
	return string(text) + out.String(), code
}

func TestTerminal(t *testing.T) {
	h := start(t)
	h.Hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 1_000_000))
	if shown, code := h.onTerminal("warm demo:v1", "n\n"); code != Failed || !strings.Contains(shown, "Go on? [y/N]") || !strings.Contains(shown, "hubcap: nothing was changed") {
		t.Errorf("%d %q", code, shown)
	}
	if shown, code := h.onTerminal("warm demo:v1", "y\n"); code != Done || !strings.Contains(shown, "[") || !strings.Contains(shown, "1 of 1, 1.0 MB") {
		t.Errorf("%d %q", code, shown)
	}
	if shown, code := h.onTerminal("warm demo:v1 --yes", ""); code != Done || strings.Contains(shown, "Go on?") {
		t.Errorf("%d %q", code, shown)
	}
}

// TestProgressWithoutATerminal is a line each ten seconds.
func TestProgressWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	var seconds atomic.Int64
	p := &program{Options: Options{Stderr: &out, Now: func() time.Time { return noon.Add(time.Duration(seconds.Load()) * time.Second) }}}
	bar := p.newProgress()
	left := int64(1)
	for range 25 {
		bar.set(seconds.Load()*2e6, 50e6, 2e6, &left)
		seconds.Add(1)
	}
	bar.end()
	if want := "40 %  20 of 50 MB  2.0 MB/s  1 s\n80 %  40 of 50 MB  2.0 MB/s  1 s\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

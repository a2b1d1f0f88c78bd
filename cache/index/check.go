package index

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4/options"
)

// checkWithin is how long a check may take before it counts as failed: it reads
// the whole index, which for a million blobs is 150 MiB.
const checkWithin = time.Minute

// checkArgument is the only argument of the process that checks an index.
const checkArgument = "check-hubcap-index"

// init turns a process with checkArgument into a check of the index, in every
// program and test that imports this package.
func init() {
	if len(os.Args) != 2 || os.Args[1] != checkArgument {
		return
	}
	if err := checkHere(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// check opens the index in a separate process: on damaged files Badger panics
// in goroutines of its own, where the panic cannot be recovered, or ends the
// process. An error means that the index is damaged; a check that cannot be run
// returns nil.
func (x *Index) check() error {
	ctx, cancel := context.WithTimeout(context.Background(), checkWithin)
	defer cancel()
	said, err := runCheck(ctx, x.path)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("its check did not end within %v", checkWithin)
	case !errors.As(err, &exit) || killed(exit.ProcessState):
		x.Log.Warn("the index is opened unchecked: the check could not be run", "err", err)
		return nil
	}
	return fmt.Errorf("its check failed: %w: %s", err, firstLine(said))
}

// runCheck runs the check in the data directory dir, and returns its output.
func runCheck(ctx context.Context, dir string) (said string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	child := exec.CommandContext(ctx, self, checkArgument)        //nolint:gosec // this program
	child.Dir, child.Env, child.Stderr = dir, []string{}, &stderr // the environment has secrets, and the check needs none of it
	alive, err := child.StdinPipe()                               // closed when this process ends
	if err != nil {
		return "", err
	}
	defer alive.Close()
	err = child.Run()
	return stderr.String(), err
}

// killed reports whether a process was ended by SIGKILL, as by a system that is
// short of memory.
func killed(state *os.ProcessState) bool {
	status, ok := state.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// firstLine returns the first line that is not empty, at most 200 bytes of it.
func firstLine(text string) string {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			return line[:min(len(line), 200)]
		}
	}
	return "no output"
}

// checkHere opens the index below the working directory as Open does, verifies
// the checksums of all tables, and closes it. It ends the process when stdin
// ends, which happens when the parent process dies.
func checkHere(stdin io.Reader) error {
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		os.Exit(1)
	}()
	var complaints complaints
	db, err := openLogging(settings(indexName).WithChecksumVerificationMode(options.OnTableRead), &complaints)
	if err != nil {
		return err
	}
	return cmp.Or(db.Close(), complaints.first())
}

// complaints collects the errors that Badger logs and does not return, such as a
// table that it leaves out. It is a badger.Logger.
type complaints struct {
	mu  sync.Mutex
	all []string
}

// Errorf records an error.
func (c *complaints) Errorf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, fmt.Sprintf(format, args...))
}

// Warningf, Infof and Debugf discard the message.
func (*complaints) Warningf(string, ...any) {}
func (*complaints) Infof(string, ...any)    {}
func (*complaints) Debugf(string, ...any)   {}

func (c *complaints) first() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) == 0 {
		return nil
	}
	return errors.New(c.all[0])
}

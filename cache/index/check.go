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

// checkWithin is how long a check may take: it reads the whole index, which
// for a million blobs is 150 MiB. One that takes longer is taken for stuck.
const checkWithin = time.Minute

// checkArgument is the one argument of the process that checks an index.
const checkArgument = "check-hubcap-index"

// init makes every program that has an index, and every test of one, able to
// check it: with that argument it does nothing else.
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

// check tries the index in a process of its own: on damaged files Badger
// panics in goroutines where nobody can recover, or ends the process itself.
// An error says what is wrong with the index; that the check could not be run
// is none.
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

// runCheck runs the check in the data directory dir, and returns what it said.
func runCheck(ctx context.Context, dir string) (said string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	child := exec.CommandContext(ctx, self, checkArgument)        //nolint:gosec // this program
	child.Dir, child.Env, child.Stderr = dir, []string{}, &stderr // it needs nothing of the environment, which has secrets
	alive, err := child.StdinPipe()                               // which ends with this process
	if err != nil {
		return "", err
	}
	defer alive.Close()
	err = child.Run()
	return stderr.String(), err
}

// killed reports whether somebody else, such as a system short of memory, has
// ended a process by SIGKILL.
func killed(state *os.ProcessState) bool {
	status, ok := state.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// firstLine is the first line that says something, at most 200 bytes of it.
func firstLine(text string) string {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			return line[:min(len(line), 200)]
		}
	}
	return "it said nothing"
}

// checkHere opens the index below the working directory as Open does, with
// each of its tables verified, and closes it. It ends the process when stdin
// ends, as it does when the process that wants to know has died.
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

// complaints are the errors that Badger logs and otherwise passes over, such
// as a table that it leaves out. It is a badger.Logger.
type complaints struct {
	mu  sync.Mutex
	all []string
}

// Errorf notes an error.
func (c *complaints) Errorf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, fmt.Sprintf(format, args...))
}

// Warningf, Infof and Debugf are no complaints.
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

package cli

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/testbox"
	"hubcap/e2e/testkit"
)

func TestMain(m *testing.M) {
	testkit.InMemory()
	os.Exit(testkit.Main{M: m}.Run())
}

// result is what a user sees of a command.
type result struct {
	out, errs string
	code      int
}

// run runs a command line. The environment is environ alone.
func run(line string, environ ...string) result {
	return runWith(context.Background(), Options{Environ: environ}, strings.Fields(line)...)
}

func runWith(ctx context.Context, o Options, args ...string) result {
	var out, errs bytes.Buffer
	o.Stdout, o.Stderr, o.Version = &out, &errs, "test"
	if o.Stdin == nil {
		o.Stdin = strings.NewReader("")
	}
	err := Run(ctx, args, o)
	code := Report(&errs, err)
	return result{out.String(), errs.String(), code}
}

// hubcap is one that runs inside the test.
type hubcap struct {
	*testbox.Box
	environ []string // of the commands
}

// start starts a hubcap and returns when it is ready.
func start(t *testing.T, environ ...string) *hubcap {
	t.Helper()
	b := testbox.Start(t, append([]string{"HUBCAP_CACHE_SIZE=64MiB"}, environ...)...)
	return &hubcap{b, []string{"HUBCAP_DATA_DIR=" + b.Dir, "HUBCAP_URL=" + b.Admin, "HUBCAP_TOKEN_FILE=" + filepath.Join(b.Dir, "admin-token")}}
}

// run runs a command line against it.
func (h *hubcap) run(line string) result { return run(line, h.environ...) }

// pull pulls library/demo as a client does.
func (h *hubcap) pull() { h.Pull("", "library/demo", "v1") }

// get asks for a manifest as a client does, and returns when it is stored.
func (h *hubcap) get(path string) {
	h.T.Helper()
	status, body := h.Get("", path)
	if status != http.StatusOK {
		h.T.Fatalf("%s: %d %s", path, status, body)
	}
	h.Stored(digest.FromBytes(body))
}

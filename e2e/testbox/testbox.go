// Package testbox runs a hubcap inside a test, with a fake Docker Hub behind it. It
// knows the assembled program, which the tests of its rooms (e2e/testkit) may not.
//
// Files: testbox.go (a box that is asked at its ports), rooms.go (one that is used from
// inside).
package testbox

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/proxy/config"
	"hubcap/proxy/server"
)

// readyWithin is how long a hubcap may take until it is ready.
const readyWithin = 30 * time.Second

// Box is a hubcap that runs inside a test.
type Box struct {
	T      *testing.T
	Hub    *fakehub.Hub
	Mirror string // host:port
	Admin  string // URL
	Dir    string // data directory
}

// Start starts a hubcap with further settings and returns when it is ready. It ends
// with the test.
func Start(t *testing.T, environ ...string) *Box {
	t.Helper()
	admin := "127.0.0.1:" + testkit.FreePort(t)
	b := &Box{T: t, Hub: fakehub.Start(t, fakehub.Options{RateLimit: 100}), Mirror: "127.0.0.1:" + testkit.FreePort(t), Admin: "http://" + admin, Dir: t.TempDir()}
	all := append([]string{
		"HUBCAP_LISTEN=" + b.Mirror, "HUBCAP_ADMIN_LISTEN=" + admin, "HUBCAP_DATA_DIR=" + b.Dir,
		"HUBCAP_MIN_FREE=0", "HUBCAP_DRAIN_TIMEOUT=200ms",
		"HUBCAP_UPSTREAM_0_HOST=docker.io",
	}, append(behind(b.Hub), environ...)...)
	Run(t, all, server.Options{Version: "1.4.0"})
	return b
}

// Run runs a hubcap with these settings alone and returns when it is ready. It ends
// with the test. The log is discarded.
func Run(t *testing.T, environ []string, o server.Options) {
	t.Helper()
	c, err := config.Load(environ)
	if err != nil {
		t.Fatal(err)
	}
	o.Environ, o.Log = environ, slog.New(slog.DiscardHandler)
	s, err := server.New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		s.Close()
	})
	for deadline := time.Now().Add(readyWithin); server.Healthcheck(c) != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is not ready")
		}
	}
}

// Token returns what is in a file with a token: admin-token or view-token.
func (b *Box) Token(name string) string {
	b.T.Helper()
	text, err := os.ReadFile(filepath.Join(b.Dir, name))
	if err != nil {
		b.T.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// Get asks the mirror port below /v2/ as a client does, and returns the answer's
// status and body.
func (b *Box) Get(agent, path string) (status int, body []byte) {
	b.T.Helper()
	return Get(b.T, "http://"+b.Mirror+"/v2/"+path, http.Header{"User-Agent": {agent}})
}

// Stored returns once objects are stored and no fill runs: a client has what it asked
// for a moment earlier, and a fill holds the lock of its blob for a moment longer.
func (b *Box) Stored(wanted ...digest.Digest) {
	b.T.Helper()
	for deadline := time.Now().Add(readyWithin); ; time.Sleep(5 * time.Millisecond) {
		header := http.Header{"Authorization": {"Bearer " + b.Token("admin-token")}}
		_, held := Get(b.T, b.Admin+"/api/v1/holdings", header)
		_, metrics := Get(b.T, b.Admin+"/metrics", header)
		idle := bytes.Contains(metrics, []byte("\nhubcap_fills_running 0\n"))
		if idle && !slices.ContainsFunc(wanted, func(d digest.Digest) bool { return !bytes.Contains(held, []byte(d)) }) {
			return
		}
		if time.Now().After(deadline) {
			b.T.Fatalf("not all of %s is among %s, or a fill runs", wanted, held)
		}
	}
}

// Pull pulls an image whole, of an index its first platform, and returns when it is
// stored.
func (b *Box) Pull(agent, repo, reference string) {
	b.T.Helper()
	status, body := b.Get(agent, repo+"/manifests/"+reference)
	if status != http.StatusOK {
		b.T.Fatalf("%s:%s: %d %s", repo, reference, status, body)
	}
	type object struct{ Digest digest.Digest }
	var m struct {
		Manifests, Layers []object
		Config            object
	}
	if err := json.Unmarshal(body, &m); err != nil {
		b.T.Fatal(err)
	}
	wanted := []digest.Digest{digest.FromBytes(body)}
	if len(m.Manifests) > 0 {
		b.Pull(agent, repo, m.Manifests[0].Digest.String())
	} else {
		for _, one := range append(m.Layers, m.Config) {
			wanted = append(wanted, one.Digest)
			if status, body := b.Get(agent, repo+"/blobs/"+one.Digest.String()); status != http.StatusOK {
				b.T.Fatalf("%s@%s: %d %s", repo, one.Digest, status, body)
			}
		}
	}
	b.Stored(wanted...)
}

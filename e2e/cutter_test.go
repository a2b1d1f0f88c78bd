package e2e

import (
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// cutterAddress is where a cutter listens. Every namespace has it to itself.
const cutterAddress = "127.0.0.1:5050"

// quiet is how long no other request has begun before an answer is cut. A client
// may ask elsewhere for what it has not begun yet when the box disappoints it.
const quiet = 300 * time.Millisecond

// cutter is a way to the box on which one answer is cut.
type cutter struct {
	mu     sync.Mutex
	open   int       // requests
	last   time.Time // when one began or ended
	digest digest.Digest
	after  int64    // bytes; none are left to cut when it is negative
	ranges []string // that were asked for since
}

func newCutter(t *testing.T, ns *namespace) *cutter {
	t.Helper()
	listener, err := ns.listen("tcp", cutterAddress)
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{after: -1}
	to := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: mirror})
	to.Transport = ns.httpClient(t).Transport
	to.ModifyResponse = c.shorten
	to.FlushInterval = -1
	to.ErrorLog = log.New(io.Discard, "", 0) // it tells of what is cut on purpose
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.count(1)
		defer c.count(-1)
		to.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return c
}

// cut has the next answer with a blob end after some bytes.
func (c *cutter) cut(d digest.Digest, after int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.digest, c.after, c.ranges = d, after, nil
}

func (c *cutter) count(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open += n
	c.last = time.Now()
}

// alone reports whether the answer to cut is the only one for a while.
func (c *cutter) alone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open <= 1 && time.Since(c.last) >= quiet
}

// parts are the ranges of what was cut that were asked for, but for those from its beginning.
func (c *cutter) parts() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ranges
}

// shorten is the proxy's ModifyResponse.
func (c *cutter) shorten(answer *http.Response) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !strings.HasSuffix(answer.Request.URL.Path, c.digest.String()) || answer.Request.Method != http.MethodGet {
		return nil
	}
	if asked := answer.Request.Header.Get("Range"); asked != "" && !strings.HasPrefix(asked, "bytes=0-") {
		c.ranges = append(c.ranges, asked)
	}
	if c.after >= 0 {
		answer.Body = &shortened{ReadCloser: answer.Body, cutter: c, left: c.after}
		c.after = -1
	}
	return nil
}

// shortened is a body that breaks off once the client waits for nothing else.
type shortened struct {
	io.ReadCloser
	cutter *cutter
	left   int64
}

func (s *shortened) Read(p []byte) (int, error) {
	if s.left == 0 {
		for deadline := time.Now().Add(5 * time.Second); !s.cutter.alone() && time.Now().Before(deadline); {
			time.Sleep(20 * time.Millisecond)
		}
		return 0, io.ErrUnexpectedEOF
	}
	n, err := s.ReadCloser.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	return n, err
}

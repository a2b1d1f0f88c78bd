package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

// The benchmarks stand side by side with a bare net/http server in the same
// run: what counts is the ratio. Client and server share the process, so the
// CPU figures are of both, with the same client on either side, and a profile
// shows both. The whole table is e2e/bench's.

// cpu is the CPU time this process has taken, user and system.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// raw is a client that costs as little as a client can: one connection, one
// request line, the body read into one buffer.
type raw struct {
	conn net.Conn
	in   *bufio.Reader
	line []byte
	buf  []byte
}

func dial(b *testing.B, url, path string) *raw {
	b.Helper()
	host := strings.TrimPrefix(url, "http://")
	conn, err := net.Dial("tcp", host)
	must(b, err)
	b.Cleanup(func() { conn.Close() })
	return &raw{
		conn: conn, in: bufio.NewReaderSize(conn, 256<<10), buf: make([]byte, 256<<10),
		line: fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host),
	}
}

// get sends the request and reads the answer; it returns the body's length.
func (c *raw) get() (int64, error) {
	if _, err := c.conn.Write(c.line); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %d", resp.StatusCode)
	}
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{resp.Body}, c.buf)
}

// parallel runs b.N requests over n connections.
func parallel(b *testing.B, url, path string, n int) {
	b.Helper()
	clients := make([]*raw, n)
	for i := range clients {
		clients[i] = dial(b, url, path)
	}
	work := make(chan struct{})
	var all sync.WaitGroup
	b.ResetTimer()
	before := cpu()
	for _, c := range clients {
		all.Go(func() {
			for range work {
				if _, err := c.get(); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	all.Wait()
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// plain serves one file as bare net/http does.
func plain(b *testing.B, content []byte) string {
	b.Helper()
	name := filepath.Join(b.TempDir(), "file")
	must(b, os.WriteFile(name, content, 0o600))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeFile(w, r, name)
	}))
	b.Cleanup(s.Close)
	return s.URL
}

// BenchmarkWarmLayer is a layer of 64 MiB that is held, over 8 connections.
func BenchmarkWarmLayer(b *testing.B) {
	layer := fakehub.RandomBlob(1, 64*mib)
	r := newRig(b, rigOptions{log: io.Discard})
	d := r.hub.AddBlob("library/demo", layer)
	r.get(blobPath("demo", d)).want(b, 200, layer, "")
	r.settle()
	for _, side := range []struct{ name, url, path string }{
		{"hubcap", r.url, blobPath("demo", d)},
		{"plain", plain(b, layer), "/"},
	} {
		b.Run(side.name, func(b *testing.B) {
			b.SetBytes(int64(len(layer)))
			parallel(b, side.url, side.path, 8)
		})
	}
}

// BenchmarkWarmManifest is a manifest that is held, over 64 connections, with
// the request log written to a file as in service.
func BenchmarkWarmManifest(b *testing.B) {
	log, err := os.Create(filepath.Join(b.TempDir(), "log"))
	must(b, err)
	defer log.Close()
	r := newRig(b, rigOptions{log: log})
	img := r.hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1000))
	r.get("/v2/demo/manifests/latest").want(b, 200, img.Body, "")
	for _, side := range []struct{ name, url, path string }{
		{"by tag", r.url, "/v2/library/demo/manifests/latest"},
		{"by digest", r.url, "/v2/library/demo/manifests/" + img.Manifest.Digest.String()},
		{"plain", plain(b, img.Body), "/"},
	} {
		b.Run(side.name, func(b *testing.B) { parallel(b, side.url, side.path, 64) })
	}
}

// BenchmarkColdLayer is a layer of 16 MiB that nobody holds, over one connection. What the
// hub takes on the same processors is in it.
func BenchmarkColdLayer(b *testing.B) {
	const size = 16 * mib
	r := newRig(b, rigOptions{log: io.Discard})
	c := dial(b, r.url, "")
	b.SetBytes(size)
	before, seed := cpu(), uint64(0)
	for b.Loop() {
		seed++
		d := r.hub.AddRandomBlob("library/demo", seed, size)
		c.line = fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: hubcap\r\n\r\n", blobPath("library/demo", d))
		if n, err := c.get(); err != nil || n != size {
			b.Fatalf("%d bytes, %v", n, err)
		}
	}
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(seed), "cpu-µs/op")
}

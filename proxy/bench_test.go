package proxy

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
// CPU figures are of both, with the same client on either side.

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

// BenchmarkColdLayer64 is one layer that nobody holds, asked for by 64
// clients at once, beside one client that fetches it directly. The upstream
// gives 40 MB/s to a connection and 125 MB/s to all.
func BenchmarkColdLayer64(b *testing.B) {
	const size = 64 * mib
	hub := fakehub.Start(b, fakehub.Options{
		Latency: 20 * time.Millisecond, ConnBandwidth: 40e6, Bandwidth: 125e6, Anonymous: true,
	})
	r := newRig(b, rigOptions{hub: hub, log: io.Discard, cache: 4 << 30})
	fetch := func(clients int, url, path string) {
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				resp, err := r.client.Get(url + path)
				if err != nil {
					b.Error(err)
					return
				}
				defer resp.Body.Close()
				n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 256<<10))
				if n != size || err != nil {
					b.Errorf("%d bytes, %v", n, err)
				}
			})
		}
		all.Wait()
	}
	var direct, through time.Duration
	for i := range b.N {
		d := hub.AddBlob("library/demo", fakehub.RandomBlob(uint64(i+1), size))
		path := blobPath("library/demo", d)
		began := time.Now()
		fetch(1, hub.RegistryURL(), path)
		direct += time.Since(began)
		hub.Reset()
		began = time.Now()
		fetch(64, r.url, path)
		through += time.Since(began)
		r.settle()
		if n := hub.BytesSent(d); n != size {
			b.Errorf("%d bytes upstream", n)
		}
		hub.DeleteBlob("library/demo", d)
	}
	b.ReportMetric(direct.Seconds()/float64(b.N), "direct-s/op")
	b.ReportMetric(through.Seconds()/float64(b.N), "64-clients-s/op")
	b.ReportMetric(through.Seconds()/direct.Seconds(), "ratio")
}

// slowHub is an upstream with 20 ms latency and 40 MB/s a connection.
func slowHub(b *testing.B, perConnection int64) *fakehub.Hub {
	return fakehub.Start(b, fakehub.Options{Latency: 20 * time.Millisecond, ConnBandwidth: perConnection})
}

// timed fetches a span of a blob and returns the time to its first byte and
// to its last.
func timed(b *testing.B, client *http.Client, url string, header ...string) (first, last time.Duration) {
	b.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	must(b, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	began := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		b.Error(err)
		return 0, 0
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		b.Errorf("status %d", resp.StatusCode)
	}
	buf := make([]byte, 256<<10)
	if _, err := io.ReadAtLeast(resp.Body, buf, 1); err != nil {
		b.Error(err)
	}
	first = time.Since(began)
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{resp.Body}, buf); err != nil {
		b.Error(err)
	}
	return first, time.Since(began)
}

// BenchmarkColdLayer is a layer of 256 MiB that nobody holds, whole and a MiB
// in the middle of it, beside the same fetched directly; both have a token.
func BenchmarkColdLayer(b *testing.B) {
	const size = 256 * mib
	for _, what := range []struct {
		name   string
		header []string
	}{
		{"whole", nil},
		{"1 MiB in the middle", []string{"Range", "bytes=134217728-135266303"}},
	} {
		b.Run(what.name, func(b *testing.B) {
			hub := slowHub(b, 40e6)
			r := newRig(b, rigOptions{hub: hub, log: io.Discard, cache: 8 << 30})
			hub.Image("library/demo", "latest")
			r.get("/v2/library/demo/manifests/latest").want(b, 200, nil, "") // as any client does first
			var directFirst, directLast, first, last time.Duration
			for i := range b.N {
				d := hub.AddRandomBlob("library/demo", uint64(100+i), size)
				path := blobPath("library/demo", d)
				header := append([]string{"Authorization", "Bearer " + hub.Token("", "library/demo")}, what.header...)
				f, l := timed(b, r.client, hub.RegistryURL()+path, header...)
				directFirst, directLast = directFirst+f, directLast+l
				f, l = timed(b, r.client, r.url+path, what.header...)
				first, last = first+f, last+l
				r.settle()
				hub.DeleteBlob("library/demo", d)
			}
			b.ReportMetric(directLast.Seconds()/float64(b.N), "direct-s/op")
			b.ReportMetric(last.Seconds()/float64(b.N), "hubcap-s/op")
			b.ReportMetric(first.Seconds()/directFirst.Seconds(), "first-byte-ratio")
			b.ReportMetric(last.Seconds()/directLast.Seconds(), "ratio")
		})
	}
}

// BenchmarkColdImage is an image of 12 layers and 200 MiB that nobody holds,
// three layers at a time as dockerd asks, at 20 MB/s a connection.
func BenchmarkColdImage(b *testing.B) {
	hub := slowHub(b, 20e6)
	r := newRig(b, rigOptions{hub: hub, log: io.Discard, cache: 8 << 30})
	pull := func(url string, layers []string, header ...string) time.Duration {
		began := time.Now()
		slots := make(chan struct{}, 3)
		var all sync.WaitGroup
		for _, layer := range layers {
			slots <- struct{}{}
			all.Go(func() {
				timed(b, r.client, url+layer, header...)
				<-slots
			})
		}
		all.Wait()
		return time.Since(began)
	}
	hub.Image("library/demo", "latest")
	r.get("/v2/library/demo/manifests/latest").want(b, 200, nil, "")
	var direct, through time.Duration
	for i := range b.N {
		var layers []string
		for n := range 12 {
			layer := hub.AddRandomBlob("library/demo", uint64(1000+100*i+n), 200*mib/12)
			layers = append(layers, blobPath("library/demo", layer))
		}
		direct += pull(hub.RegistryURL(), layers, "Authorization", "Bearer "+hub.Token("", "library/demo"))
		through += pull(r.url, layers)
		r.settle()
	}
	b.ReportMetric(direct.Seconds()/float64(b.N), "direct-s/op")
	b.ReportMetric(through.Seconds()/float64(b.N), "hubcap-s/op")
	b.ReportMetric(through.Seconds()/direct.Seconds(), "ratio")
}

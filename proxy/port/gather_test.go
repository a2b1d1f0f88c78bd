package port

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"hubcap/e2e/testkit"
)

// sends returns a handler that sends a file as the proxy does, as many bytes as the
// path says.
func sends(t testing.TB, size int) http.HandlerFunc {
	name := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(name, bytes.Repeat([]byte("0123456789abcde\n"), size/16), 0o600))
	return func(w http.ResponseWriter, r *http.Request) {
		file, err := os.Open(name)
		if err != nil {
			panic(err)
		}
		defer file.Close()
		n, err := strconv.Atoi(r.URL.Path[1:])
		if err != nil {
			panic(err)
		}
		w.Header().Set("Content-Length", strconv.Itoa(n))
		for n > 0 {
			m, err := io.CopyN(w, file, int64(min(n, 1<<20)))
			if n -= int(m); err != nil {
				return
			}
		}
	}
}

// TestBodiesOverTLS: bodies of any length arrive as they are, and the next answer of
// the connection behind them.
func TestBodiesOverTLS(t *testing.T) {
	const size = 3 << 20
	r := newRig(t, sends(t, size))
	whole := bytes.Repeat([]byte("0123456789abcde\n"), size/16)
	conn, _ := r.dial(t)
	in := bufio.NewReader(conn)
	for _, n := range []int{0, 1, 16 << 10, gatherSize - 1, gatherSize, gatherSize + 1, 4 * gatherSize, 1<<20 + 1, size} {
		_, err := fmt.Fprintf(conn, "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", n)
		must(t, err)
		resp, err := http.ReadResponse(in, nil)
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(body, whole[:n]) {
			t.Fatalf("%d bytes: %d came, %v", n, len(body), err)
		}
	}
}

// TestClientThatLeavesOverTLS: the handler ends when the client is gone.
func TestClientThatLeavesOverTLS(t *testing.T) {
	ended, send := make(chan struct{}), sends(t, 64<<20)
	r := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		send(w, r)
	})
	conn, _ := r.dial(t)
	_, err := io.WriteString(conn, "GET /67108864 HTTP/1.1\r\nHost: x\r\n\r\n")
	must(t, err)
	_, err = io.ReadFull(conn, make([]byte, 100_000))
	must(t, err)
	must(t, conn.Close())
	select {
	case <-ended:
	case <-time.After(testkit.Patience):
		t.Fatal("the answer goes on")
	}
}

// BenchmarkBodyOverTLS sends 64 MiB over one connection; the CPU is that of both sides.
func BenchmarkBodyOverTLS(b *testing.B) {
	const size = 64 << 20
	h := sends(b, size)
	plain := httptest.NewTLSServer(h)
	b.Cleanup(plain.Close)
	for _, side := range []struct{ name, address string }{
		{"hubcap", newRig(b, h).Addr().String()}, {"plain", plain.Listener.Addr().String()},
	} {
		b.Run(side.name, func(b *testing.B) {
			conn, err := tls.Dial("tcp", side.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
			must(b, err)
			defer conn.Close()
			in, buf := bufio.NewReaderSize(conn, 4<<10), make([]byte, 256<<10)
			b.SetBytes(size)
			before := cpu()
			for b.Loop() {
				_, err := fmt.Fprintf(conn, "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", size)
				must(b, err)
				resp, err := http.ReadResponse(in, nil)
				must(b, err)
				n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{resp.Body}, buf)
				if err != nil || n != size {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64((cpu()-before).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}

// cpu is the CPU time that this process has taken.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

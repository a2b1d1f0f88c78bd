package proxy_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"hubcap/e2e/fakehub"
)

// open begins to read a path over a connection of its own, which takes little
// in advance.
func (r *rig) open(t *testing.T, path string) io.Reader {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(64 * kib)
		}
		return conn, err
	}}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+path, nil)
	must(t, err)
	resp, err := client.Do(req)
	must(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d", path, resp.StatusCode)
	}
	return resp.Body
}

// TestSlowReaderAmongFastOnes has one client read a thousand bytes for each
// whole layer that another one gets: nobody waits for it, and it gets
// everything too.
func TestSlowReaderAmongFastOnes(t *testing.T) {
	for _, name := range []string{"a layer that is held", "a layer that comes in"} {
		t.Run(name, func(t *testing.T) {
			layer := fakehub.RandomBlob(810, 14*mib) // more than a socket's buffers
			r := newRig(t, rigOptions{})
			path := blobPath("demo", r.hub.AddBlob("library/demo", layer))
			if name == "a layer that is held" {
				r.get(path).want(t, 200, layer, "")
				r.settle()
			}
			slow := r.open(t, path)
			got := new(bytes.Buffer)
			for range 5 {
				var fast sync.WaitGroup
				for range 3 {
					fast.Go(func() {
						if whole, err := r.try(context.Background(), http.MethodGet, path); err != nil || !bytes.Equal(whole.body, layer) {
							t.Errorf("a fast client: %d bytes, %v", len(whole.body), err)
						}
					})
				}
				fast.Wait()
				_, err := io.CopyN(got, slow, 1000)
				must(t, err)
			}
			if _, err := io.Copy(got, slow); err != nil || !bytes.Equal(got.Bytes(), layer) {
				t.Errorf("the slow client: %d bytes, %v", got.Len(), err)
			}
		})
	}
}

// TestClientThatTakesNothing is cut; what it had begun goes on without it.
func TestClientThatTakesNothing(t *testing.T) {
	layer := fakehub.RandomBlob(811, 48*mib) // more than any socket's buffers
	r := newRig(t, rigOptions{minRate: 4 * mib})
	path := blobPath("demo", r.hub.AddBlob("library/demo", layer))
	body := r.open(t, path)
	eventually(t, "it is cut", func() bool { return r.metric(`hubcap_client_limits_total{limit="too_slow"}`) == "1" })
	if n, err := io.Copy(io.Discard, body); err == nil {
		t.Errorf("its answer of %d bytes is complete", n)
	}
	eventually(t, "the layer is held", func() bool { return r.metric("hubcap_fills_finished_total") == "1" })
	if n := r.metric("hubcap_cut_answers_total"); n != "0" {
		t.Errorf("%s answers are counted as cut for want of content", n)
	}
}

package server

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
)

// download requests a slow layer, and returns when its first byte has arrived.
func (b *box) download(layer digest.Digest) (first []byte, resp *http.Response) {
	b.t.Helper()
	resp, err := b.client.Get("http://" + b.mirror + "/v2/library/demo/blobs/" + layer.String())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { resp.Body.Close() })
	first = make([]byte, 1)
	if _, err := io.ReadFull(resp.Body, first); err != nil || resp.StatusCode != http.StatusOK {
		b.t.Fatalf("status %d: %v", resp.StatusCode, err)
	}
	return first, resp
}

func TestDrain(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	layer := hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1<<20)).Layers[0].Digest
	resume := make(chan struct{})
	hub.Script(fakehub.Always(&fakehub.Fault{StallAt: fakehub.At(1000), Resume: resume}, fakehub.OfKind(fakehub.KindCDN)))
	b := start(t, append(behind(t, hub), "HUBCAP_DRAIN_TIMEOUT=30s")...)

	first, resp := b.download(layer)
	b.cancel()
	b.within("it stops", func() bool { return b.line("stopping") != nil })
	for _, address := range []string{b.mirror, b.admin} {
		if status, _, body := b.get(address, "/readyz"); status != http.StatusServiceUnavailable || body != "draining\n" {
			t.Errorf("/readyz while draining: %d %q", status, body)
		}
	}
	if status, _, _ := b.get(b.admin, "/livez"); status != http.StatusOK {
		t.Errorf("/livez while draining: %d", status)
	}
	close(resume)
	rest, err := io.ReadAll(resp.Body)
	if err != nil || digest.FromBytes(append(first, rest...)) != layer {
		t.Errorf("the running answer did not end well: %d bytes, %v", len(first)+len(rest), err)
	}
	resp.Body.Close()
	if err := b.wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
	if b.line("stopped") == nil {
		t.Error("the end is not logged")
	}
	if got := b.line("stopping")["within"]; got != "30s" {
		t.Errorf("the time for draining is logged as %v, want 30s", got)
	}
}

func TestDrainEnds(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	layer := hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1<<20)).Layers[0].Digest
	hub.Script(fakehub.Always(&fakehub.Fault{StallAt: fakehub.At(1000)}, fakehub.OfKind(fakehub.KindCDN)))
	b := start(t, append(behind(t, hub), "HUBCAP_DRAIN_TIMEOUT=50ms")...)

	_, resp := b.download(layer)
	began := time.Now()
	b.cancel()
	if err := b.wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
	if took := time.Since(began); took > 20*time.Second { // the layer is given up after 30 s
		t.Errorf("took %v", took)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("a cut answer looks whole")
	}
	if !strings.Contains(b.log.String(), "HUBCAP_DRAIN_TIMEOUT gives them longer") {
		t.Error("what was cut is not logged")
	}
}

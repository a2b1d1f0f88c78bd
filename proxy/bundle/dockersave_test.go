package bundle_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/proxy/bundle"
)

// TestDockerSave takes in archives without a layout: layers before the list that
// names them, shared by links, and large enough to be spooled.
func TestDockerSave(t *testing.T) {
	large, small, config := fakehub.RandomBlob(1, 6*mib), fakehub.RandomBlob(2, kib), []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers"}}`)
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	list, err := json.Marshal([]map[string]any{{
		"Config": digest.FromBytes(config).Encoded() + ".json", "RepoTags": []string{"demo:1", "demo:2"}, "Layers": []string{a + "/layer.tar", b + "/layer.tar", a + "/../" + b + "/layer.tar"},
	}})
	must(t, err)
	link := entry{tar.Header{Name: b + "/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../" + strings.Repeat("c", 64) + "/layer.tar"}, nil}
	text := archive(t, plain(a+"/layer.tar", large), plain(a+"/VERSION", []byte("1.0")), plain(a+"/json", []byte("{}")), link, plain(strings.Repeat("c", 64)+"/layer.tar", small),
		plain(digest.FromBytes(config).Encoded()+".json", config), plain("manifest.json", list), plain("repositories", []byte("{}")))
	to := newRig(t, rigOptions{})
	if got := to.take(text, bundle.Intake{As: "demo"}); len(got.Images) != 2 || got.Images[0].OK || !strings.Contains(got.Images[0].Why, "force") || to.objects() != 0 {
		t.Errorf("%+v, %d objects", got, to.objects())
	}
	got := to.take(text, bundle.Intake{As: "demo", Force: true})
	if len(got.Images) != 2 || !got.Images[0].OK || !got.Images[1].OK || to.objects() != 4 {
		t.Errorf("%+v, %d objects\n%s", got, to.objects(), to.log)
	}
	for _, blob := range [][]byte{large, small, config} {
		if status, body := to.try(repo + "/blobs/" + digest.FromBytes(blob).String()); status != 200 || !bytes.Equal(body, blob) {
			t.Errorf("%d, %d bytes", status, len(body))
		}
	}
	testkit.Eventually(t, "nothing is reserved or about to be unlinked", func() bool { s := to.Ledger.Status(); return s.Reserved == 0 && s.Evicted == 0 })
	// It is what the tag names already.
	if got := to.take(text, bundle.Intake{As: "demo"}); !got.Images[0].OK {
		t.Errorf("%+v", got)
	}
	if _, err := to.Bundle.Import(t.Context(), bytes.NewReader(text[:5*mib]), bundle.Intake{As: "demo"}, nil); !errors.Is(err, bundle.ErrBroken) {
		t.Errorf("%v", err)
	}
}

// BenchmarkBundle exports and imports an image of 1 GiB and reports the peak of the
// heap:
//
//	go test -run '^$' -bench Bundle -benchtime 1x ./proxy/bundle
func BenchmarkBundle(b *testing.B) {
	const layers, size = 16, 64 * mib
	hub := fakehub.Start(b, fakehub.Options{})
	var all [][]byte
	for i := range layers {
		all = append(all, fakehub.RandomBlob(uint64(i), size))
	}
	hub.Image(repo, "1", all...)
	from := newRig(b, rigOptions{hub: hub, cache: 4 << 30})
	plan, err := from.Bundle.Plan(b.Context(), bundle.Order{Refs: refs(b, "demo:1")})
	must(b, err)
	measure := func(b *testing.B, do func()) {
		runtime.GC()
		var before, now runtime.MemStats
		runtime.ReadMemStats(&before)
		ctx, cancel := context.WithCancel(b.Context())
		peak, ended := uint64(0), make(chan struct{})
		go func() {
			defer close(ended)
			for ctx.Err() == nil {
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapInuse)
				time.Sleep(5 * time.Millisecond)
			}
		}()
		do()
		cancel()
		<-ended
		b.SetBytes(plan.Bytes)
		b.ReportMetric(float64(int64(peak)-int64(before.HeapInuse))/mib, "MiB-heap")
	}
	b.Run("export", func(b *testing.B) {
		for range b.N {
			measure(b, func() { must(b, plan.Write(b.Context(), io.Discard, nil)) })
		}
	})
	b.Run("import", func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			to := newRig(b, rigOptions{cache: 4 << 30})
			r, w := io.Pipe()
			go func() { _ = w.CloseWithError(plan.Write(context.Background(), w, nil)) }()
			b.StartTimer()
			measure(b, func() {
				got, err := to.Bundle.Import(b.Context(), r, bundle.Intake{}, nil)
				must(b, err)
				if !got.Images[0].OK {
					b.Fatalf("%+v", got)
				}
			})
		}
	})
}

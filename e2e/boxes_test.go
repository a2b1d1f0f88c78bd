package e2e

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
)

const mib = 1 << 20

// near is a stand-in that is 20 ms away.
var near = fakehub.Options{Latency: 20 * time.Millisecond}

// TestBoxesColdImage has 300 clients pull an image of 12 layers that nobody holds, a hundred at each of three boxes: the registry sends
// it once, is pulled from once, and gives each box one token.
func TestBoxesColdImage(t *testing.T) {
	const clients = 300
	b := newBoxes(t, 3, near)
	var layers []ocispec.Descriptor
	var bytes int64
	for i := range 12 {
		size := int64(512<<10 + i*1000)
		layers = append(layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: b.hub.AddRandomBlob("library/app", uint64(100+i), size), Size: size})
		bytes += size
	}
	img := b.hub.ImageOf("library/app", "1", layers...)
	var pulls sync.WaitGroup
	var mu sync.Mutex
	var failed []error
	begun := time.Now()
	for n := range clients {
		client, box := b.ns.httpClient(t), b.all[n%3]
		pulls.Go(func() {
			err := b.read(t.Context(), client, box.address, "/v2/library/app/manifests/1", img.Manifest.Digest).err
			for _, l := range img.Layers {
				err = errors.Join(err, b.read(t.Context(), client, box.address, "/v2/library/app/blobs/"+l.Digest.String(), l.Digest).err)
			}
			client.CloseIdleConnections()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, err)
			}
		})
	}
	pulls.Wait()
	if len(failed) > 0 {
		t.Errorf("%d of %d clients failed, such as: %v", len(failed), clients, failed[0])
	}
	var sent int64
	for _, l := range img.Layers {
		sent += b.hub.BytesSent(l.Digest)
	}
	manifests := fakehub.All(fakehub.OfKind(fakehub.KindManifest), fakehub.OfMethod(http.MethodGet), fakehub.OfStatus(http.StatusOK))
	counted, tokens := b.hub.Count(manifests), b.hub.Count(fakehub.OfKind(fakehub.KindToken))
	t.Logf("%d clients in %s: %.3f of the layers' bytes crossed, %d counted pulls, %d tokens", clients, time.Since(begun).Round(time.Millisecond), float64(sent)/float64(bytes), counted, tokens)
	if float64(sent) > 1.02*float64(bytes) || counted != 1 || tokens > 3 {
		t.Error("more than once, once and one a box")
	}
}

// faults are what happens to the box that others read from.
var faults = []struct {
	name string
	do   func(b *siteBox)
	gap  time.Duration // that clients may see
}{
	{"killed", func(b *siteBox) { b.kill() }, time.Second},
	{"stopped", func(b *siteBox) { b.signal(syscall.SIGSTOP) }, 4 * time.Second},
	{"cut off", func(b *siteBox) { b.cable("down") }, 4 * time.Second},
	{"asked to end", func(b *siteBox) { b.signal(syscall.SIGTERM) }, time.Second},
}

// slack is what a machine with other work adds to a time.
const slack = 2 * time.Second

// TestBoxesOwnerFails has the box that fetches a layer fail in the middle of it, while 34 clients read it at the other two: none of
// them notices more than a pause, though none would ask again.
func TestBoxesOwnerFails(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			const clients, size = 34, 32 * mib
			b := newBoxes(t, 3, fakehub.Options{Latency: 20 * time.Millisecond, ConnBandwidth: 2 * mib})
			d := b.hub.AddRandomBlob("library/app", 7, size)
			path := "/v2/library/app/blobs/" + d.String()
			owner := b.begin(t, path, d)
			all := b.others(owner)
			results := make([]reading, clients)
			var reads sync.WaitGroup
			for n := range clients {
				client := b.ns.httpClient(t)
				reads.Go(func() { results[n] = b.read(t.Context(), client, all[n%2].address, path, d) })
			}
			b.under(t, d, size/4)
			f.do(owner)
			reads.Wait()
			gap, failed := time.Duration(0), 0
			for _, r := range results {
				gap = max(gap, r.gap)
				if r.err != nil {
					failed++
					t.Error(r.err)
				}
			}
			sent := float64(b.hub.BytesSent(d)) / size
			t.Logf("%d of %d clients failed; the longest pause was %s; %.2f of the layer crossed, for %d boxes", failed, clients, gap.Round(10*time.Millisecond), sent, len(b.askers(d)))
			if gap > f.gap+slack || sent > 2.1 {
				t.Errorf("a pause of %s, want %s at most; %.2f of the layer crossed, want 2 at most", gap, f.gap, sent)
			}
		})
	}
}

// TestBoxesRoll restarts three boxes, one after the other, under pulls of clients that go on at the next box where one does not answer.
func TestBoxesRoll(t *testing.T) {
	const settings = "HUBCAP_DRAIN_TIMEOUT=30s"
	b := newBoxes(t, 3, near, settings)
	ctx, stop := context.WithCancel(t.Context())
	var pulling sync.WaitGroup
	var mu sync.Mutex
	pulls, failed, gap := 0, 0, time.Duration(0)
	for n := range 3 {
		client := b.ns.httpClient(t)
		pulling.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				d := b.hub.AddRandomBlob("library/app", uint64(1000*n+i), 3*mib)
				r := b.readAnywhere(t.Context(), client, n, "/v2/library/app/blobs/"+d.String(), d)
				mu.Lock()
				pulls++
				gap = max(gap, r.gap)
				if r.err != nil {
					failed++
					t.Error(r.err)
				}
				mu.Unlock()
				time.Sleep(200 * time.Millisecond)
			}
		})
	}
	for _, box := range b.all {
		time.Sleep(time.Second)
		box.stop()
		box.start(t, settings)
	}
	stop()
	pulling.Wait()
	t.Logf("%d of %d pulls failed; the longest pause was %s", failed, pulls, gap.Round(10*time.Millisecond))
	if pulls < 15 || gap > 500*time.Millisecond+slack {
		t.Errorf("%d pulls, a pause of %s", pulls, gap)
	}
}

// readAnywhere reads at the box number n, or the next one if that does not answer.
func (b *boxes) readAnywhere(ctx context.Context, client *http.Client, n int, path string, d digest.Digest) (r reading) {
	for i := range b.all {
		r = b.read(ctx, client, b.all[(n+i)%len(b.all)].address, path, d)
		if r.err == nil || r.gap > 0 { // it had begun
			return r
		}
	}
	return r
}

// TestBoxesPartition cuts one of three boxes off from the other two, and not from the registry: every pull goes on, each half fetches
// for itself, and the site is one again soon after.
func TestBoxesPartition(t *testing.T) {
	b := newBoxes(t, 3, near)
	client := b.ns.httpClient(t)
	seed := uint64(0)
	pull := func(boxes ...*siteBox) (d digest.Digest) {
		seed++
		d = b.hub.AddRandomBlob("library/app", seed, 2*mib)
		var reads sync.WaitGroup
		for _, box := range boxes {
			reads.Go(func() {
				if r := b.read(t.Context(), client, box.outside, "/v2/library/app/blobs/"+d.String(), d); r.err != nil {
					t.Errorf("box %d: %v", box.number, r.err)
				}
			})
		}
		reads.Wait()
		return d
	}
	b.all[2].cable("down")
	more := 0
	for begun := time.Now(); time.Since(begun) < 30*time.Second; {
		if n := len(b.askers(pull(b.all...))); n > 2 {
			more++
		}
	}
	if more > 1 { // one where a box is seen to be gone half a second later than by another one
		t.Errorf("%d of %d blobs crossed more than once a half", more, seed)
	}
	b.all[2].cable("up")
	begun := time.Now()
	whole := 0
	for whole < 5 { // in a row
		if whole++; len(b.askers(pull(b.all...))) > 1 {
			whole = 0
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatal("the halves stay apart")
		}
	}
	t.Logf("whole again within %s, after %d blobs", time.Since(begun).Round(100*time.Millisecond), seed)
}

// TestBoxesOutage takes the registry away after an image was pulled at one box: clients of each box get it.
func TestBoxesOutage(t *testing.T) {
	c := clientNamed(t, "skopeo")
	i := multiArchImage()
	b := newBoxes(t, 3, near)
	b.publish(i)
	mustPull(t, c.start(t, b.site, b.all[0].address), i)
	b.hub.Down()
	for _, name := range []string{"crane", "podman", "ctr"} {
		c := clientNamed(t, name)
		for _, box := range b.all[1:] {
			if err := c.start(t, b.site, box.address).pull(i); err != nil {
				t.Errorf("%s at box %d: %v", name, box.number, err)
			}
		}
	}
	b.assertNoBypass(t)
}

// TestBoxesListed has a box start with names in its list that do not exist: it says so, and pulls go on.
func TestBoxesListed(t *testing.T) {
	b := newBoxes(t, 2, near)
	b.all[1].stop()
	b.all[1].start(t, "HUBCAP_SITE="+b.list()+",http://box7.site:5000,http://box8.site:5000")
	client := b.ns.httpClient(t)
	for seed := range uint64(12) {
		d := b.hub.AddRandomBlob("library/app", 500+seed, mib)
		for _, box := range b.all {
			if r := b.read(t.Context(), client, box.address, "/v2/library/app/blobs/"+d.String(), d); r.err != nil {
				t.Error(r.err)
			}
		}
	}
	log := b.all[1].log.String()
	if lines := slices.Collect(strings.Lines(log)); !slices.ContainsFunc(lines, func(l string) bool {
		return strings.Contains(l, "box7.site") && strings.Contains(l, "does not answer as it should")
	}) {
		t.Errorf("no line about the box that does not exist:\n%s", log)
	}
}

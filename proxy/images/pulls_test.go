package images_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/images"
)

// TestWanted: which image, and which of its platforms, a pull belongs to, for each
// way in which clients pull.
func TestWanted(t *testing.T) {
	for _, one := range []struct {
		name string
		pull func(b *box) (ref string)
		want string
		rows int // in the list
	}{
		{"by tag, a plain image", func(b *box) string {
			img := b.hub.Image(repo, "1", fakehub.RandomBlob(1, 1000))
			b.mustAsk(http.MethodGet, manifestPath(repo, "1"))
			b.blobs(img)
			return "demo:1"
		}, "ready 1; plain 1 W", 1},
		{"a plain image of which no blob is asked for", func(b *box) string {
			b.hub.Image(repo, "1", fakehub.RandomBlob(1, 1000))
			b.mustAsk(http.MethodGet, manifestPath(repo, "1"))
			return "demo:1"
		}, "gaps 1; plain 1 W layer: never fetched config: never fetched", 1},
		{"as dockerd does", func(b *box) string {
			amd64, _, _ := b.multi("1")
			for range 2 {
				b.mustAsk(http.MethodGet, manifestPath(repo, "1"))
				b.mustAsk(http.MethodGet, manifestPath(repo, amd64.Manifest.Digest))
			}
			b.blobs(amd64)
			b.mustAsk(http.MethodGet, manifestPath(repo, "1"))
			b.mustAsk(http.MethodGet, manifestPath(repo, amd64.Manifest.Digest))
			return "demo:1"
		}, "ready 3; linux/amd64 2 W; linux/arm64 0 manifest: never fetched", 1},
		{"as containerd 2.4 does", func(b *box) string {
			amd64, arm64, _ := b.multi("1")
			d := b.mustAsk(http.MethodHead, manifestPath(repo, "1"))
			b.mustAsk(http.MethodGet, manifestPath(repo, d))
			for _, child := range []fakehub.Image{amd64, arm64} {
				b.mustAsk(http.MethodGet, manifestPath(repo, child.Manifest.Digest))
				b.mustAsk(http.MethodGet, blobPath(repo, child.Config.Digest))
			}
			b.blobs(amd64)
			b.mustAsk(http.MethodHead, manifestPath(repo, "1"))
			return "demo:1"
		}, "ready 1; linux/amd64 1 W; linux/arm64 0 layer: never fetched", 1},
		{"by digest", func(b *box) string {
			_, arm64, d := b.multi("")
			b.mustAsk(http.MethodGet, manifestPath(repo, d))
			b.mustAsk(http.MethodGet, manifestPath(repo, arm64.Manifest.Digest))
			b.blobs(arm64)
			return "demo@" + string(d)
		}, "ready 1; linux/arm64 1 W; linux/amd64 0 manifest: never fetched", 1},
		{"by the digest of a platform", func(b *box) string {
			amd64, _, _ := b.multi("")
			b.mustAsk(http.MethodGet, manifestPath(repo, amd64.Manifest.Digest))
			b.blobs(amd64)
			return "demo@" + string(amd64.Manifest.Digest)
		}, "ready 1; plain 1 W", 1},
	} {
		t.Run(one.name, func(t *testing.T) {
			b := newBox(t, 0)
			ref := one.pull(b)
			b.settle()
			b.want(ref, one.want)
			if page, err := b.Images.List(images.Query{}); err != nil || len(page.Images) != one.rows {
				t.Errorf("%d rows, %v", len(page.Images), err)
			}
			b.restart()
			b.want(ref, strings.ReplaceAll(one.want, string(images.NeverFetched), string(images.LostBefore)), one.want)
			if page, err := b.Images.List(images.Query{}); err != nil || len(page.Images) != one.rows {
				t.Errorf("after a restart: %d rows, %v", len(page.Images), err)
			}
		})
	}
}

// TestWindow: an image that nobody has pulled within the window is listed, and not
// wanted; its pulls count for thirty days.
func TestWindow(t *testing.T) {
	b := newBox(t, 0, "HUBCAP_OUTAGE_DAYS=40")
	b.blobs(func() fakehub.Image {
		img := b.hub.Image(repo, "1", fakehub.RandomBlob(1, 1000))
		b.mustAsk(http.MethodGet, manifestPath(repo, "1"))
		return img
	}())
	b.settle()
	for _, step := range []struct {
		days int
		want string
	}{{29, "ready 1; plain 1 W"}, {31, "ready 0; plain 0 W"}, {39, "ready 0; plain 0 W"}, {41, "- 0; plain 0 W"}} {
		now := b.clock.Now()
		b.clock.Advance(time.Duration(step.days) * 24 * time.Hour)
		b.want("demo:1", step.want)
		b.clock.Advance(now.Sub(b.clock.Now()))
	}
}

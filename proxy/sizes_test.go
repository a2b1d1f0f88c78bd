package proxy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
)

// TestDigestDecidesNotTheSize pulls images whose manifests give no length for
// their layers, or a wrong one: HEAD, whole, in part, held and not, and with
// the rest of the image brought in ahead.
func TestDigestDecidesNotTheSize(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]func(length int) any{
		"absent":    func(int) any { return nil },
		"0":         func(int) any { return 0 },
		"minus one": func(length int) any { return length - 1 },
		"plus one":  func(length int) any { return length + 1 },
		"negative":  func(int) any { return -1 },
		"huge":      func(int) any { return 1 << 50 },
		"right":     func(length int) any { return length },
	} {
		for _, ahead := range []bool{false, true} {
			if testing.Short() && ahead != (name == "huge") {
				continue
			}
			t.Run(fmt.Sprintf("%s, prefetch %v", name, ahead), func(t *testing.T) {
				r := newRig(t, rigOptions{prefetch: ahead})
				layers := [][]byte{fakehub.RandomBlob(1, 12*mib), fakehub.RandomBlob(2, 300*kib), fakehub.RandomBlob(3, 12*mib+1), {}}
				img := r.hub.Image("library/demo", "right", layers...)
				r.pullWithSizes(img, layers, size)
			})
		}
	}
}

func (r *rig) pullWithSizes(img fakehub.Image, layers [][]byte, size func(length int) any) {
	r.t.Helper()
	descriptor := func(d v1.Descriptor) map[string]any {
		m := map[string]any{"mediaType": d.MediaType, "digest": d.Digest}
		if n := size(int(d.Size)); n != nil {
			m["size"] = n
		}
		return m
	}
	manifest := map[string]any{"schemaVersion": 2, "mediaType": v1.MediaTypeImageManifest, "config": descriptor(img.Config)}
	var all []any
	for _, l := range img.Layers {
		all = append(all, descriptor(l))
	}
	manifest["layers"] = all
	body, err := json.Marshal(manifest)
	must(r.t, err)
	r.hub.AddManifest("library/demo", "latest", v1.MediaTypeImageManifest, body)

	r.get("/v2/demo/manifests/latest").want(r.t, 200, body, "")
	for i, l := range img.Layers {
		path := blobPath("demo", l.Digest)
		head := r.do(http.MethodHead, path)
		head.want(r.t, 200, nil, "")
		if head.ContentLength != int64(len(layers[i])) {
			r.t.Errorf("layer %d: HEAD says %d bytes", i, head.ContentLength)
		}
		if n := len(layers[i]); n > 0 {
			r.get(path, "Range", fmt.Sprintf("bytes=%d-", n/2)).want(r.t, 206, layers[i][n/2:], "")
		}
		for range 2 {
			whole := r.get(path)
			whole.want(r.t, 200, layers[i], "")
			if whole.ContentLength != int64(len(layers[i])) {
				r.t.Errorf("layer %d: GET says %d bytes", i, whole.ContentLength)
			}
			r.settle()
		}
	}
}

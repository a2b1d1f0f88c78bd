package proxy

import (
	"testing"

	"hubcap/e2e/fakehub"
)

// TestPrefetchBringsTheRestOfAnImage asks for one layer of an image, and later
// for all: the others were brought in meanwhile, each once.
func TestPrefetchBringsTheRestOfAnImage(t *testing.T) {
	for _, on := range []bool{true, false} {
		r := newRig(t, rigOptions{prefetch: on})
		layers := [][]byte{fakehub.RandomBlob(1, 12*mib), fakehub.RandomBlob(2, 300*kib), fakehub.RandomBlob(3, 5*mib)}
		img := r.hub.Image("library/demo", "latest", layers...)
		r.get("/v2/demo/manifests/latest").want(t, 200, img.Body, "")
		first := img.Layers[1].Digest
		r.get(blobPath("demo", first)).want(t, 200, layers[1], "")
		if !on {
			r.settle()
			if n := r.hub.Count(fakehub.OfKind(fakehub.KindCDN)); n != 1 {
				t.Errorf("%d blobs fetched with prefetching off", n)
			}
			continue
		}
		eventually(t, "the other layers and the config are held", func() bool {
			n, _ := r.all.Value("hubcap_prefetch_blobs_total")
			return n == 3
		})
		r.hub.Down()
		for i, layer := range img.Layers {
			r.get(blobPath("demo", layer.Digest)).want(t, 200, layers[i], "")
			if sent := r.hub.BytesSent(layer.Digest); sent != int64(len(layers[i])) {
				t.Errorf("layer %d: %d bytes upstream of %d", i, sent, len(layers[i]))
			}
		}
	}
}

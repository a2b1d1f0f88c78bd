package proxy_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

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

// TestForeignURLsAreNotFollowed has a manifest say where else its layers are to
// be had: nobody is asked there, whoever asks for a layer and whatever is
// brought in ahead.
func TestForeignURLsAreNotFollowed(t *testing.T) {
	var visits atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visits.Add(1) }))
	defer elsewhere.Close()
	r := newRig(t, rigOptions{prefetch: true})
	own := r.hub.Image("library/demo", "own", fakehub.RandomBlob(1, 300*kib), fakehub.RandomBlob(2, 300*kib))
	manifest := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: own.Config, Layers: own.Layers}
	missing := map[string]v1.Descriptor{}
	for _, mediaType := range []string{v1.MediaTypeImageLayerGzip, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"} {
		layer := v1.Descriptor{MediaType: mediaType, Digest: digest.FromString(mediaType), Size: int64(len(mediaType)), URLs: []string{elsewhere.URL + "/layer"}}
		manifest.Layers, missing[mediaType] = append(manifest.Layers, layer), layer
	}
	manifest.SchemaVersion = 2
	body, err := json.Marshal(manifest)
	must(t, err)
	r.hub.AddManifest("library/demo", "latest", v1.MediaTypeImageManifest, body)
	r.get("/v2/demo/manifests/latest").want(t, 200, body, "")
	r.get(blobPath("demo", own.Layers[0].Digest)).want(t, 200, nil, "")
	eventually(t, "the rest is brought in", func() bool { return r.cdn(own.Layers[1].Digest) > 0 })
	for _, layer := range missing {
		r.get(blobPath("demo", layer.Digest)).want(t, 404, nil, "")
	}
	if n := visits.Load(); n != 0 {
		t.Errorf("%d requests elsewhere", n)
	}
}

package images_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/proxy/images"
)

// BenchmarkWalk looks at 10,000 images of 15 blobs, half of them an index of two
// platforms of which one was pulled; one in a hundred lacks a layer. Nothing of their
// layers is on disk: the ledger alone is asked.
func BenchmarkWalk(b *testing.B) {
	const count, perRepository = 10_000, 20
	box := newBox(b, 1<<40)
	for i := range count {
		name := fmt.Sprintf("library/r%d", i/perRepository)
		tag := fmt.Sprint(i % perRepository)
		if i%2 == 0 {
			one := box.described(name, "", i, 0)
			box.hub.Index(name, tag, one, box.described(name, "", i, 1))
			box.mustAsk(http.MethodGet, manifestPath(name, tag))
			box.mustAsk(http.MethodGet, manifestPath(name, one.Digest))
			box.Images.Given(images.Answer{Registry: "docker.io", Repository: name, Digest: layerOf(i, 0, 0), Blob: true})
		} else {
			box.described(name, tag, i, 0)
			box.mustAsk(http.MethodGet, manifestPath(name, tag))
		}
	}
	box.settle()
	for i := range count * 15 { // late: the scrubber finds that there are no files
		if image, layer := i/15, i%15; image%100 != 0 || layer > 0 {
			must(b, box.Ledger.Reserve(1000))
			box.Ledger.Commit(layerOf(image, 0, layer), 1000, 1000)
		}
	}
	s := box.Outage.Report(images.Terms{})
	b.Logf("%+v", s.Summary)
	began := cpu()
	for b.Loop() {
		box.Images.Walk(images.Terms{Days: 30})
	}
	b.Logf("%+v", box.Images.Summary())
	b.ReportMetric(float64((cpu()-began).Milliseconds())/float64(b.N), "cpu-ms/op")
}

// cpu returns how much processor time the process has used.
func cpu() time.Duration {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // it cannot fail
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// layerOf is the digest of a layer; the last one of an image is its config.
func layerOf(image, platform, layer int) digest.Digest {
	return digest.FromString(fmt.Sprint(image, platform, layer))
}

// described adds a manifest to the registry whose layers it does not have.
func (b *box) described(name, tag string, image, platform int) ocispec.Descriptor {
	b.t.Helper()
	part := func(mediaType string, layer int) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: mediaType, Digest: layerOf(image, platform, layer), Size: 1000}
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: part(ocispec.MediaTypeImageConfig, 14)}
	for layer := range 14 {
		m.Layers = append(m.Layers, part(ocispec.MediaTypeImageLayerGzip, layer))
	}
	body, err := json.Marshal(m)
	must(b.t, err)
	d := b.hub.AddManifest(name, tag, ocispec.MediaTypeImageManifest, body)
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(body)),
		Platform: &ocispec.Platform{OS: "linux", Architecture: []string{"amd64", "arm64"}[platform]},
	}
}

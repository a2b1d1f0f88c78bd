package server

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"hubcap/cache/index"
	"hubcap/e2e/fakehub"
	"hubcap/proxy/images"
)

// TestFirstPage prints how long the first page of a list of 10,000 images, and the
// pages of the admin port that show images, take while 64 pulls run: go test -run TestFirstPage -v ./proxy/server. The images are
// tags of 100 that are held, of 12 layers each.
func TestFirstPage(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	hub := fakehub.Start(t, fakehub.Options{})
	dir := t.TempDir()
	b := start(t, append(behind(t, hub), "HUBCAP_DATA_DIR="+dir, "HUBCAP_ALLOW_CLIENTS=127.0.0.0/8", "HUBCAP_CACHE_SIZE=2GiB", "HUBCAP_LOG_LEVEL=error")...)
	now := time.Now()
	for n := range uint64(100) {
		var layers [][]byte
		for layer := range uint64(12) {
			layers = append(layers, fakehub.RandomBlob(n*12+layer, 1000))
		}
		repository := fmt.Sprint("library/demo", n)
		img := hub.Image(repository, "v0", layers...)
		b.get(b.mirror, "/v2/"+repository+"/manifests/v0")
		for _, one := range append(img.Layers, img.Config) {
			b.get(b.mirror, "/v2/"+repository+"/blobs/"+one.Digest.String())
		}
		for v := range 100 {
			tag, d := fmt.Sprint("v", v), img.Manifest.Digest
			name := index.Name{Registry: "docker.io", Repository: repository, Kind: index.KindTag, Name: tag}
			if err := b.server.index.PutTag(name, index.Tag{Digest: d, MediaType: img.Manifest.MediaType, Size: img.Manifest.Size, Confirmed: now, FirstSeen: now}, false); err != nil {
				t.Fatal(err)
			}
			b.server.Images.Given(images.Answer{Registry: "docker.io", Repository: repository, Tag: tag, Digest: d})
		}
	}
	b.server.Images.Walk(images.Terms{Days: 30})
	hub.Script(fakehub.Always(&fakehub.Fault{Rate: 1 << 20}, fakehub.OfKind(fakehub.KindCDN)))
	var pulls sync.WaitGroup
	defer pulls.Wait()
	for n := range uint64(64) {
		img := hub.Image("library/large", fmt.Sprint("v", n), fakehub.RandomBlob(10_000+n, 15<<20))
		pulls.Go(func() {
			if resp, err := b.client.Get("http://" + b.mirror + "/v2/library/large/blobs/" + img.Layers[0].Digest.String()); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
	}
	for _, path := range []string{
		"/api/v1/images?limit=100", "/api/v1/images?limit=100&sort=size", "/api/v1/images?limit=100&state=gaps", "/api/v1/images?limit=100&q=library/demo1*", "/", "/images",
	} {
		var took []time.Duration
		for range 20 {
			began := time.Now()
			if status, _, body := b.call(dir, "GET", path); status != 200 {
				t.Fatalf("%d %s", status, body)
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		t.Logf("%s: median %v, slowest %v", path, took[len(took)/2].Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond))
	}
}

package proxy_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
)

// TestPlaceIsTold: Cache-Status and the log say which place the first bytes of a fill come
// from, to who began it and to who joins it.
func TestPlaceIsTold(t *testing.T) {
	const stored, joined = "hubcap; fwd=uri-miss; stored", "hubcap; fwd=uri-miss; collapsed"
	hub := fakehub.Start(t, fakehub.Options{})
	bucket, address := newBucket(t)
	sister := newRig(t, rigOptions{hub: hub})
	all := newSite(t, 3, rigOptions{hub: hub, bucket: address, sisters: []string{sister.url}})
	told := func(r *rig, body []byte, d digest.Digest, status, place string) {
		t.Helper()
		r.settle()
		r.get(blobPath("library/app", d)).want(t, 200, body, status+place)
		r.settle()
		r.get(blobPath("library/app", d)).want(t, 200, body, "hubcap; hit")
		_, kind, _ := strings.Cut(place, "=")
		eventually(t, "it is logged", func() bool {
			for line := range strings.Lines(r.log.String()) {
				if strings.Contains(line, d.String()) && strings.Contains(line, " from=miss ") {
					_, logged, _ := strings.Cut(strings.TrimSpace(line), " place=")
					return logged == kind
				}
			}
			return false
		})
	}

	owned := func(i, size int) ([]byte, digest.Digest) { return all.blobOwnedBy(t, i, "library/app", size) }
	body, d := owned(0, 2*mib)
	told(all[0], body, d, stored, "")
	told(all[1], body, d, stored, "; detail=peer")

	body, d = owned(1, 2*mib+1)
	bucket.Put(objectOf(d), body)
	told(all[1], body, d, stored, "; detail=s3")
	told(all[0], body, d, stored, "; detail=peer")

	body, d = owned(2, 2*mib+2)
	sister.get(blobPath("library/app", d)).want(t, 200, body, stored)
	told(all[2], body, d, stored, "; detail=sister")

	body, d = owned(0, 2*mib+3)
	bucket.Put(objectOf(d), body)
	begun, release := make(chan struct{}, 1), make(chan struct{})
	bucket.Fault(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, d.Encoded()) {
			begun <- struct{}{}
			<-release
		}
		return false
	})
	answers := make(chan reply, 2)
	pull := func() {
		got, err := all[0].try(t.Context(), http.MethodGet, blobPath("library/app", d))
		if err != nil {
			t.Error(err)
		}
		answers <- got
	}
	go pull()
	<-begun
	go pull()
	eventually(t, "it joins", func() bool { n, _ := all[0].all.Value("hubcap_fills_joined_total"); return n == 1 })
	close(release)
	statuses := map[string]bool{}
	for range 2 {
		got := <-answers
		got.want(t, 200, body, "")
		statuses[got.Header.Get("Cache-Status")] = true
	}
	if !statuses[stored+"; detail=s3"] || !statuses[joined+"; detail=s3"] {
		t.Error(statuses)
	}
}

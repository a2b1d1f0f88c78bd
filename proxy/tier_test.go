package proxy_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

// newBucket returns a bucket and its address.
func newBucket(t *testing.T) (b *testkit.Bucket, address string) {
	t.Helper()
	b = testkit.NewBucket()
	s := httptest.NewServer(b)
	t.Cleanup(s.Close)
	return b, s.URL + "/bucket"
}

// objectOf is the key of a blob's object.
func objectOf(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }

// written waits until the bucket has the blob.
func written(t *testing.T, b *testkit.Bucket, d digest.Digest, body []byte) {
	t.Helper()
	eventually(t, "it is in the bucket", func() bool { return bytes.Equal(b.Object(objectOf(d)), body) })
}

// TestTierBehindASite has a site without a disk pull what the bucket has: each blob is
// asked for by one box, and none comes from the registry. A box whose owner is dead asks
// the bucket itself.
func TestTierBehindASite(t *testing.T) {
	bucket, address := newBucket(t)
	all := newSite(t, 3, rigOptions{bucket: address})
	hub := all[0].hub
	for i := range all {
		body, d := all.blobOwnedBy(t, i, "library/app", mib+i)
		bucket.Put(objectOf(d), body)
		for _, r := range all {
			r.get(blobPath("library/app", d)).want(t, 200, body, "")
			r.settle()
		}
		if n := bucket.Count("GET " + objectOf(d)); n != 1 {
			t.Errorf("the bucket was asked %d times, want once", n)
		}
		if sent := hub.BytesSent(d); sent != 0 {
			t.Errorf("%d bytes came from the registry", sent)
		}
	}
	orphan, d := all.blobOwnedBy(t, 2, "library/app", mib+100)
	bucket.Put(objectOf(d), orphan)
	all[2].stop()
	for _, r := range all[:2] {
		r.get(blobPath("library/app", d)).want(t, 200, orphan, "")
	}
	if sent := hub.BytesSent(d); sent != 0 {
		t.Errorf("%d bytes came from the registry", sent)
	}
	if n := bucket.Count("PUT"); n != 0 {
		t.Errorf("%d blobs of the bucket were written to it", n)
	}
}

// TestTierIsWrittenOnce has a site pull what the bucket does not have: it is written by
// the box that fetched it.
func TestTierIsWrittenOnce(t *testing.T) {
	bucket, address := newBucket(t)
	all := newSite(t, 3, rigOptions{bucket: address})
	for i := range all {
		body, d := all.blobOwnedBy(t, i, "library/app", 9*mib+i) // of several pieces
		for _, r := range all {
			r.get(blobPath("library/app", d)).want(t, 200, body, "")
		}
		written(t, bucket, d, body)
		for _, r := range all {
			r.settle()
		}
		if n := bucket.Count("GET " + objectOf(d)); n != 1 {
			t.Errorf("the bucket was asked %d times for what it does not have, want once", n)
		}
		if n := bucket.Count("PUT " + objectOf(d)); n != 1 {
			t.Errorf("it was written %d times", n)
		}
		if sent := all[0].hub.BytesSent(d); sent > int64(len(body)+kib) { // it asks for a token first
			t.Errorf("%d bytes of %d came from the registry", sent, len(body))
		}
	}
}

// TestTierKeepsRestrictedContent: what needs credentials is neither written to the bucket
// nor asked for there, although the bucket has it.
func TestTierKeepsRestrictedContent(t *testing.T) {
	bucket, address := newBucket(t)
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{boxUser: boxPassword}})
	r := newRig(t, rigOptions{hub: hub, user: boxUser, password: boxPassword, rules: shared, bucket: address})
	hub.SetPrivate("owner/secret", boxUser)
	secret, public := fakehub.RandomBlob(6001, 100*kib), fakehub.RandomBlob(6002, 100*kib)
	d, after := hub.AddBlob("owner/secret", secret), hub.AddBlob("library/app", public)
	r.get(blobPath("owner/secret", d)).want(t, 200, secret, "")
	r.get(blobPath("library/app", after)).want(t, 200, public, "") // queued behind it
	written(t, bucket, after, public)
	if bucket.Object(objectOf(d)) != nil || bucket.Count("GET "+objectOf(d))+bucket.Count("PUT "+objectOf(d)) != 0 {
		t.Error("the bucket has seen restricted content")
	}
	other := hub.AddBlob("owner/secret", fakehub.RandomBlob(6003, 100*kib))
	bucket.Put(objectOf(other), fakehub.RandomBlob(6003, 100*kib))
	r.get(blobPath("owner/secret", other)).want(t, 200, fakehub.RandomBlob(6003, 100*kib), "")
	if n := bucket.Count("GET " + objectOf(other)); n != 0 || hub.BytesSent(other) == 0 {
		t.Error("the bucket was asked for restricted content")
	}
}

// TestTierThatLies has objects of wrong bytes: no client is given a whole wrong blob, the
// second request at the latest succeeds, and the object is right afterwards.
func TestTierThatLies(t *testing.T) {
	bucket, address := newBucket(t)
	r := newRig(t, rigOptions{bucket: address})
	for i, tc := range []struct {
		name string
		lie  func(body []byte) []byte
	}{
		{"the first bit", func(body []byte) []byte { body[0] ^= 1; return body }},
		{"in the second piece", func(body []byte) []byte { body[len(body)-mib] ^= 1; return body }},
		{"the last bit", func(body []byte) []byte { body[len(body)-1] ^= 1; return body }},
		{"too short", func(body []byte) []byte { return body[:len(body)/2] }},
		{"too long", func(body []byte) []byte { return append(body, 0) }},
		{"nothing", func([]byte) []byte { return []byte{} }},
	} {
		lie := tc.lie
		t.Run(tc.name, func(t *testing.T) {
			body := fakehub.RandomBlob(uint64(6100+i), 9*mib)
			d := r.hub.AddBlob("library/app", body)
			bucket.Put(objectOf(d), lie(bytes.Clone(body)))
			first, err := r.try(t.Context(), http.MethodGet, blobPath("library/app", d))
			if err == nil && first.err == nil && first.StatusCode == http.StatusOK && !bytes.Equal(first.body, body) {
				t.Errorf("a wrong blob of %d bytes is complete", len(first.body))
			}
			r.settle()
			r.get(blobPath("library/app", d)).want(t, 200, body, "")
			written(t, bucket, d, body)
			r.clock.Advance(2 * time.Minute) // the bucket has rested
		})
	}
	if n, _ := r.all.Value("hubcap_tier_reads_total", "result", "wrong"); n < 6 {
		t.Errorf("%v wrong objects are counted", n)
	}
}

// TestTierIsNotPaced: bytes from the bucket do not count for HUBCAP_BANDWIDTH.
func TestTierIsNotPaced(t *testing.T) {
	bucket, address := newBucket(t)
	r := newRig(t, rigOptions{bucket: address, pace: "64KiB"})
	body := fakehub.RandomBlob(6200, 4*mib)
	d := r.hub.AddBlob("library/app", body)
	bucket.Put(objectOf(d), body)
	begun := time.Now()
	r.get(blobPath("library/app", d)).want(t, 200, body, "")
	if took := time.Since(begun); took > 20*time.Second || r.hub.BytesSent(d) != 0 { // paced, it takes a minute
		t.Errorf("it took %s, %d bytes from the registry", took, r.hub.BytesSent(d))
	}
}

// TestTierOfALostDisk: a box that has lost its disk takes everything but manifests from
// the bucket, while the registry gives no blob at all.
func TestTierOfALostDisk(t *testing.T) {
	bucket, address := newBucket(t)
	hub := fakehub.Start(t, fakehub.Options{})
	img := hub.Image("library/app", "v1", fakehub.RandomBlob(6300, 2*mib), fakehub.RandomBlob(6301, 20*mib))
	first := newRig(t, rigOptions{hub: hub, bucket: address})
	first.pull(t, "library/app", img)
	for _, layer := range append(img.Layers, img.Config) {
		eventually(t, "it is in the bucket", func() bool { return bucket.Object(objectOf(layer.Digest)) != nil })
	}
	first.stop()
	hub.Down(fakehub.RoleCDN)
	newRig(t, rigOptions{hub: hub, bucket: address}).pull(t, "library/app", img)
}

// TestTierGetsWhatWasHeld has a box that held blobs before there was a bucket write them to
// it: what needs credentials is not among them, nor any manifest.
func TestTierGetsWhatWasHeld(t *testing.T) {
	bucket, address := newBucket(t)
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{boxUser: boxPassword}})
	o := rigOptions{dir: t.TempDir(), hub: hub, user: boxUser, password: boxPassword, rules: shared}
	before := newRig(t, o)
	hub.SetPrivate("owner/secret", boxUser)
	layers := [][]byte{fakehub.RandomBlob(6600, 100*kib), fakehub.RandomBlob(6601, 2*mib)}
	img, secret := hub.Image("library/app", "v1", layers...), hub.Image("owner/secret", "v1", fakehub.RandomBlob(6602, 100*kib))
	before.pull(t, "library/app", img)
	before.pull(t, "owner/secret", secret)
	before.settle()
	before.stop()
	o.bucket = address
	after := newRig(t, o)
	eventually(t, "nothing is missing", func() bool {
		n, known := after.all.Value("hubcap_tier_missing")
		stored, _ := after.all.Value("hubcap_tier_writes_total", "result", "stored")
		return known && n == 0 && stored == 3
	})
	for i, layer := range img.Layers {
		if !bytes.Equal(bucket.Object(objectOf(layer.Digest)), layers[i]) {
			t.Errorf("layer %d is not in the bucket", i)
		}
	}
	if n := bucket.Count("PUT"); n != 3 || bucket.Object(objectOf(img.Config.Digest)) == nil {
		t.Errorf("%d blobs were written, want two layers and their config", n)
	}
}

// TestTierInOutage: an image whose layers are in the bucket alone is served while the
// registry fails, and one that lacks a layer there is refused.
func TestTierInOutage(t *testing.T) {
	bucket, address := newBucket(t)
	r := newRig(t, rigOptions{bucket: address})
	layer := fakehub.RandomBlob(6400, 2*mib)
	whole := r.hub.Image("library/app", "whole", layer)
	lacks := r.hub.Image("library/app", "lacks", fakehub.RandomBlob(6401, 2*mib))
	for _, tag := range []string{"whole", "lacks"} {
		r.get("/v2/library/app/manifests/"+tag).want(t, 200, nil, "")
	}
	for _, img := range []fakehub.Image{whole, lacks} {
		r.get(blobPath("library/app", img.Config.Digest)).want(t, 200, nil, "")
	}
	bucket.Put(objectOf(whole.Layers[0].Digest), layer)
	r.settle()
	r.hub.Script(down)
	r.clock.Advance(time.Hour)
	r.get("/v2/library/app/manifests/whole").want(t, 200, whole.Body, "")
	r.get(blobPath("library/app", whole.Layers[0].Digest)).want(t, 200, layer, "")
	if got := r.get("/v2/library/app/manifests/lacks"); got.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("an image that lacks a layer is answered %d", got.StatusCode)
	}
}

// TestTierAnswersHead: the bucket is asked for the size of a blob before its registry, and
// not believed if a manifest says another one. Of restricted content it is not asked.
func TestTierAnswersHead(t *testing.T) {
	bucket, address := newBucket(t)
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{boxUser: boxPassword}})
	r := newRig(t, rigOptions{hub: hub, user: boxUser, password: boxPassword, rules: shared, bucket: address})
	hub.SetPrivate("owner/secret", boxUser)
	body, secret := fakehub.RandomBlob(6500, 100*kib), fakehub.RandomBlob(6501, 100*kib)
	img := hub.Image("library/app", "1", body, fakehub.RandomBlob(6502, 100*kib))
	right, wrong, absent := img.Layers[0].Digest, img.Layers[1].Digest, img.Config.Digest
	bucket.Put(objectOf(right), body)
	bucket.Put(objectOf(wrong), body[1:])
	r.get("/v2/library/app/manifests/1").want(t, 200, nil, "")
	atRegistry := func(path string) int {
		t.Helper()
		before := hub.Count(fakehub.OfKind(fakehub.KindBlob))
		got := r.do(http.MethodHead, path)
		got.want(t, 200, nil, "hubcap; fwd=uri-miss")
		if got.ContentLength != int64(len(body)) && !strings.HasSuffix(path, absent.String()) {
			t.Errorf("%s has %d bytes", path, got.ContentLength)
		}
		return hub.Count(fakehub.OfKind(fakehub.KindBlob)) - before
	}
	if n := atRegistry(blobPath("library/app", right)); n != 0 {
		t.Errorf("the registry was asked %d times for what the bucket has", n)
	}
	for _, d := range []digest.Digest{wrong, absent} {
		if n := atRegistry(blobPath("library/app", d)); n == 0 {
			t.Error("the registry was not asked")
		}
	}
	d := hub.AddBlob("owner/secret", secret)
	bucket.Put(objectOf(d), secret)
	if n := atRegistry(blobPath("owner/secret", d)); n == 0 || bucket.Count("HEAD "+objectOf(d)) != 0 {
		t.Error("the bucket was asked for restricted content")
	}
}

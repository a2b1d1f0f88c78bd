package images_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/proxy/images"
	"hubcap/proxy/jobs"
)

// repaired repairs what is missing and returns the job.
func (b *box) repaired() jobs.Job {
	b.t.Helper()
	did, err := b.Outage.Repair(false)
	if err != nil || did.Job == nil {
		b.t.Fatalf("%+v, %v", did, err)
	}
	for end := time.Now().Add(testkit.Patience); ; time.Sleep(time.Millisecond) {
		job, err := b.Jobs.Get(did.Job.ID)
		if err != nil || time.Now().After(end) {
			b.t.Fatal(job, err)
		}
		if job.State.Over() {
			return job
		}
	}
}

// TestRepair: whatever is lost of an image that clients pulled, a repair brings it
// back, and no more: not the platform that nobody pulls.
func TestRepair(t *testing.T) {
	b := newBox(t, 0)
	amd64, _, index := b.multi("1")
	b.mustAsk(http.MethodGet, manifestPath(repo, "1"))
	b.mustAsk(http.MethodGet, manifestPath(repo, amd64.Manifest.Digest))
	b.blobs(amd64)
	b.settle()
	const whole = "ready 1; linux/amd64 1 W; linux/arm64 0 manifest: never fetched"
	b.want("demo:1", whole)
	for name, lost := range map[string][]digest.Digest{
		"a layer":      {amd64.Layers[1].Digest},
		"the config":   {amd64.Config.Digest},
		"the manifest": {amd64.Manifest.Digest},
		"the index":    {index},
		"all of it":    {index, amd64.Manifest.Digest, amd64.Config.Digest, amd64.Layers[0].Digest, amd64.Layers[1].Digest},
	} {
		for _, d := range lost {
			b.Cache.Purge(d, false)
		}
		if row := b.image("demo:1"); row.Outage != images.Gaps {
			t.Errorf("%s: %s", name, text(row))
		}
		b.hub.Reset()
		if job := b.repaired(); job.State != jobs.Done {
			t.Errorf("%s: %+v", name, job)
		}
		b.want("demo:1", whole)
		if n := b.hub.Count(fakehub.OfKind(fakehub.KindManifest)) + b.hub.Count(fakehub.OfKind(fakehub.KindCDN)); n != len(lost) {
			t.Errorf("%s: %d GETs, want %d", name, n, len(lost))
		}
	}
	if did, err := b.Outage.Repair(false); err != nil || did.Job != nil || did.Images != 0 {
		t.Errorf("%+v, %v", did, err)
	}
}

// TestRepairKeepsPulls: a repair stops where a fifth of the pull limit is left, and
// fetches layers all the same, which take none.
func TestRepairKeepsPulls(t *testing.T) {
	b := newBox(t, 0)
	b.hub.Set(func(o *fakehub.Options) { o.RateLimit = 10 })
	var lost []fakehub.Image
	for i, tag := range []string{"1", "2", "3", "4", "5", "6"} {
		img := b.hub.Image(repo, tag, fakehub.RandomBlob(uint64(i), 1000))
		b.mustAsk(http.MethodGet, manifestPath(repo, tag))
		b.blobs(img)
		lost = append(lost, img)
	}
	b.settle() // four pulls are left
	for i, img := range lost {
		b.Cache.Purge(img.Layers[0].Digest, false)
		if i < 4 {
			b.Cache.Purge(img.Manifest.Digest, false)
		}
	}
	plan, err := b.Outage.Repair(true)
	if err != nil || plan.Images != 6 || len(plan.Pulls) != 1 || plan.Pulls[0].Pulls != 4 || !plan.Unknown {
		t.Errorf("%+v, %v", plan, err)
	}
	job := b.repaired()
	right := 0
	for _, item := range job.Items {
		if item.OK {
			right++
		}
	}
	if right != 4 || job.State != jobs.InPart || job.Pulls[0].Left != 2 {
		t.Errorf("%d repaired: %+v", right, job)
	}
}

// TestVerified: asked for verified images, a report names those of which a file was
// not verified of late, and a repair has nothing to fetch for them.
func TestVerified(t *testing.T) {
	b := newBox(t, 0, "HUBCAP_VERIFY_INTERVAL=7d")
	img := b.hub.Image(repo, "1", fakehub.RandomBlob(1, 1000))
	b.mustAsk(http.MethodGet, manifestPath(repo, "1"))
	b.blobs(img)
	b.settle()
	verified := images.Terms{Verified: true}
	if got := b.Outage.Report(verified); got.Ready != 1 || got.Images != 1 {
		t.Errorf("at once: %+v", got)
	}
	b.clock.Advance(8 * 24 * time.Hour)
	if got := b.Outage.Report(images.Terms{}); got.Ready != 1 {
		t.Errorf("on the usual terms: %+v", got)
	}
	got := b.Outage.Report(verified)
	if got.Ready != 0 || got.Gaps != 1 || got.Missing != 0 || len(got.Not) != 1 || got.Repair.Images != 0 || len(got.Repair.Left) != 0 {
		t.Fatalf("after eight days: %+v", got)
	}
	for _, g := range got.Not[0].Platforms[0].Gaps {
		if g.Why != images.NotVerified {
			t.Errorf("%+v", g)
		}
	}
	if n := len(got.Not[0].Platforms[0].Gaps); n != 3 {
		t.Errorf("%d parts are not verified, want the manifest, the config and the layer", n)
	}
	if s := b.Outage.Status(); s.Ready != 1 {
		t.Errorf("the status is of other terms: %+v", s)
	}
	for _, d := range []digest.Digest{img.Manifest.Digest, img.Config.Digest, img.Layers[0].Digest} {
		if _, err := b.Cache.Verify(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	b.clock.Advance(time.Minute)
	if got := b.Outage.Report(verified); got.Ready != 1 {
		t.Errorf("verified again: %+v", got)
	}
}

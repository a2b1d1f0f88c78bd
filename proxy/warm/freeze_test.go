package warm_test

import (
	"errors"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/freshness"
	"hubcap/proxy/jobs"
	"hubcap/proxy/warm"
)

// TestFreeze: a tag is frozen at once where its image is held whole, and else by a
// job that fetches it for the platforms that are in use here.
func TestFreeze(t *testing.T) {
	r := newRig(t, rigOptions{})
	one := r.multi("latest", 10)
	r.image("demo:latest", warm.Request{Platforms: []string{"linux/arm64"}})
	two := r.multi("latest", 20)
	r.clock.Advance(time.Minute)
	r.get("library/demo/manifests/latest")
	repository, err := r.Warm.Repository(ref(t, "demo"))
	must(t, err)
	state := func() freshness.TagStatus {
		t.Helper()
		_, s, err := repository.History("latest")
		must(t, err)
		return s
	}

	before, err := repository.RollbackTo("latest", "")
	must(t, err)
	s, job, err := r.Warm.Freeze(t.Context(), ref(t, "demo"), freshness.FreezeOrder{Digest: before.Digest, Note: "bad"})
	if err != nil || job != nil || s.State != freshness.Frozen || s.Digest != one.top.Digest {
		t.Errorf("held whole: %+v, %+v, %v", s, job, err)
	}
	s, job, err = r.Warm.Freeze(t.Context(), ref(t, "demo:latest@"+two.top.Digest.String()), freshness.FreezeOrder{})
	if err != nil || job == nil || job.Kind != jobs.Freeze || s.Digest != one.top.Digest {
		t.Fatalf("to be fetched: %+v, %+v, %v", s, job, err)
	}
	if j := r.ended(job.ID); j.State != jobs.Done || len(j.Items) != 1 || !j.Items[0].OK {
		t.Errorf("%+v", j)
	}
	if s := state(); s.State != freshness.Frozen || s.Digest != two.top.Digest {
		t.Errorf("%+v", s)
	}
	for _, l := range two.arm64.Layers {
		if r.hub.Count(fakehub.OfKind(fakehub.KindCDN), fakehub.OfReference(l.Digest)) != 1 {
			t.Errorf("%s was not fetched for the platform that is in use", l.Digest)
		}
	}

	_, job, err = r.Warm.Freeze(t.Context(), ref(t, "demo"), freshness.FreezeOrder{Digest: digest.FromString("nothing")})
	must(t, err)
	if j := r.ended(job.ID); j.State != jobs.Failed && j.State != jobs.InPart || len(j.Errors) == 0 {
		t.Errorf("what does not exist: %+v", j)
	}
	if s := state(); s.Digest != two.top.Digest {
		t.Errorf("%+v", s)
	}
	for name, want := range map[string]error{"demo:other": freshness.ErrUnknownTag, "example.com/x:y": warm.ErrUnknownRegistry} {
		if _, _, err := r.Warm.Freeze(t.Context(), ref(t, name), freshness.FreezeOrder{}); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

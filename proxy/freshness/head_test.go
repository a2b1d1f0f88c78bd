package freshness

import (
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/upstream"
)

// onHead has HEAD fail, and GET answered.
func onHead(err error) func(method, repository, reference string) error {
	return func(method, _, _ string) error {
		if method == "HEAD" {
			return err
		}
		return nil
	}
}

func TestHead(t *testing.T) {
	r := newRig(t)
	d := r.hub.push(app, "latest", "one")
	a, err := r.Head(t.Context(), r.repo(app), "latest")
	if err != nil || a.State != HeadOnly || a.Digest != d || a.Size != 3 || a.Body != nil {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err = r.Head(t.Context(), r.repo(app), "latest"); err != nil || a.State != Fresh {
		t.Errorf("again: %+v, %v", a, err)
	}
	if a, err = r.HeadDigest(t.Context(), r.repo(app), d); err != nil || a.State != HeadOnly || a.Size != 3 {
		t.Errorf("by digest: %+v, %v", a, err)
	}
	r.hub.wasAsked(t, "HEAD owner/app latest", "HEAD owner/app "+d.String())
	r.get(r.repo(app), "latest", Fetched, "one") // by the digest that HEAD named
	if a, err = r.HeadDigest(t.Context(), r.repo(app), d); err != nil || a.State != Fresh {
		t.Errorf("held: %+v, %v", a, err)
	}
	r.hub.wasAsked(t, "GET owner/app "+d.String())
}

// TestHeadIsNotBelieved: where HEAD brings no usable answer, GET is asked, and
// HEAD is not used again for an hour.
func TestHeadIsNotBelieved(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		edit func(*upstream.Descriptor)
	}{
		"405":             {failure(upstream.ServerError, 405), nil},
		"501":             {failure(upstream.ServerError, 501), nil},
		"500":             {failure(upstream.ServerError, 500), nil},
		"403 from a CDN":  {failure(upstream.ServerError, 403), nil},
		"broken protocol": {failure(upstream.Invalid, 200), nil},
		"no digest":       {nil, func(d *upstream.Descriptor) { d.Digest = "" }},
		"HTML":            {nil, func(d *upstream.Descriptor) { d.MediaType = "text/html" }},
		"no size":         {nil, func(d *upstream.Descriptor) { d.Size = 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.hub.push(app, "latest", "one")
			r.hub.push("owner/other", "latest", "two")
			r.hub.hook(onHead(tc.err))
			r.hub.edit = tc.edit
			if a, err := r.Head(t.Context(), r.repo(app), "latest"); err != nil || a.State != Fetched {
				t.Errorf("%+v, %v", a, err)
			}
			r.hub.wasAsked(t, "HEAD owner/app latest", "GET owner/app latest")
			r.clock.Advance(time.Minute)
			r.get(r.repo(app), "latest", Fetched, "one") // a check
			r.hub.wasAsked(t, "GET owner/app latest")
			if _, err := r.Head(t.Context(), r.repo("owner/other"), "latest"); err != nil {
				t.Error(err)
			}
			r.hub.wasAsked(t, "HEAD owner/other latest", "GET owner/other latest") // each repository for itself
			r.hub.hook(nil)
			r.hub.edit = nil
			r.clock.Advance(noHeadFor)
			r.get(r.repo(app), "latest", Confirmed, "one")
			r.hub.wasAsked(t, "HEAD owner/app latest")
		})
	}
}

// TestRefusalByHead: a known tag is given up only when GET confirms what HEAD
// says.
func TestRefusalByHead(t *testing.T) {
	for name, err := range map[string]*upstream.Error{"404": missing, "451": failure(upstream.Withdrawn, 451), "401": denied} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.hub.push(app, "latest", "one")
			r.get(r.repo(app), "latest", Fetched, "one")
			r.clock.Advance(time.Minute)
			r.hub.hook(onHead(err))
			r.get(r.repo(app), "latest", Fetched, "one")
			r.hub.wasAsked(t, "GET owner/app latest", "HEAD owner/app latest", "GET owner/app latest")
			r.clock.Advance(noHeadFor)
			r.hub.fail(err)
			r.fails(r.repo(app), err.Kind)
			r.hub.wasAsked(t, "HEAD owner/app latest", "GET owner/app latest")
		})
	}
}

// TestFailedHeadDoesNotAnswerGet: what a HEAD did not find may be had by GET.
func TestFailedHeadDoesNotAnswerGet(t *testing.T) {
	r := newRig(t)
	d := r.hub.push(app, "latest", "one")
	r.hub.hook(onHead(missing))
	if _, err := r.Head(t.Context(), r.repo(app), "latest"); !isGone(err) {
		t.Error(err)
	}
	if _, err := r.HeadDigest(t.Context(), r.repo(app), d); !isGone(err) {
		t.Error(err)
	}
	r.get(r.repo(app), "latest", Fetched, "one")
	r.hub.wasAsked(t, "HEAD owner/app latest", "HEAD owner/app "+d.String(), "GET owner/app latest")

	r.hub.fail(missing) // while a failed GET answers both
	other := digest.FromString("other")
	if _, err := r.Digest(t.Context(), r.repo(app), other); !isGone(err) {
		t.Error(err)
	}
	if _, err := r.HeadDigest(t.Context(), r.repo(app), other); !isGone(err) || !Remembered(err) {
		t.Error(err)
	}
	r.hub.wasAsked(t, "GET owner/app "+other.String())
}

// TestOutageIsTriedByGetOnce: a 500 is usually an outage, and not particular to
// HEAD.
func TestOutageIsTriedByGetOnce(t *testing.T) {
	r := newRig(t)
	r.hub.push(app, "latest", "one")
	r.get(r.repo(app), "latest", Fetched, "one")
	r.hub.wasAsked(t, "GET owner/app latest")
	r.hub.fail(failure(upstream.ServerError, 500))
	r.clock.Advance(time.Minute)
	r.get(r.repo(app), "latest", Stale, "one")
	r.hub.wasAsked(t, "HEAD owner/app latest", "GET owner/app latest")
	r.clock.Advance(time.Minute)
	r.get(r.repo(app), "latest", Stale, "one")
	r.hub.wasAsked(t, "HEAD owner/app latest")
}

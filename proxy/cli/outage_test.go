package cli

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/admin/api"
)

// TestOutage: an image of which a layer is missing has gaps, and is repaired.
func TestOutage(t *testing.T) {
	h := start(t)
	if r := h.run("outage"); r.code != Done || r.out != "No client has pulled an image within 30 days.\n" {
		t.Errorf("%+v", r)
	}
	img := h.hub.Image("library/demo", "v1", fakehub.RandomBlob(1, 100_000), fakehub.RandomBlob(2, 50_000))
	h.pull()
	if r := h.run("outage --days 1"); r.code != Done || !strings.HasPrefix(r.out, "1 of 1 image pulled within 1 day could") {
		t.Errorf("%+v", r)
	}
	h.api("purge", api.PurgeRequest{Digest: img.Layers[1].Digest})
	r := h.run("outage")
	for _, part := range []string{"0 of 1 image", "docker.io/library/demo:v1", "1 layer, 50 kB", "evicted", "hubcap outage --repair: fetches 50 kB for 1 image."} {
		if !strings.Contains(r.out, part) || r.code != InPart {
			t.Errorf("%q is not in %+v", part, r)
		}
	}
	if r := h.run("status"); !strings.Contains(r.out, "0 of 1 image of 30 days would survive") {
		t.Errorf("%+v", r)
	}
	if r := h.run("outage --repair --dry-run"); r.code != Done || r.out != "This fetches 50 kB for 1 image.\n" {
		t.Errorf("%+v", r)
	}
	if r := h.run("outage --repair"); r.code != Done || !strings.Contains(r.out, "repaired") || !strings.Contains(r.out, "1 of 1, 50 kB") {
		t.Errorf("%+v", r)
	}
	if r := h.run("outage --json"); r.code != Done || !json.Valid([]byte(r.out)) || !strings.Contains(r.out, `"ready": 1`) {
		t.Errorf("%+v", r)
	}
	if r := h.run("outage --repair"); r.code != Done || !strings.Contains(r.errs, "there is nothing that it could fetch") {
		t.Errorf("%+v", r)
	}
}

// api gives an order of the API.
func (h *hubcap) api(path string, body any) {
	h.t.Helper()
	p := &program{Options: Options{Environ: h.environ}}
	if _, _, err := ask[any](h.t.Context(), p, http.MethodPost, path, nil, body); err != nil {
		h.t.Fatal(err)
	}
}

// TestOffline: the box is taken offline for a time, and online again.
func TestOffline(t *testing.T) {
	h := start(t)
	for _, step := range []struct {
		line string
		code int
		says string
	}{
		{"offline", Done, "Online: registries are asked."},
		{"offline on --for 30m", Done, "no registry is asked until "},
		{"offline", Done, ", or hubcap offline off."},
		{"offline --json", Done, `"on": true`},
		{"offline on", Done, "until hubcap offline off."},
		{"offline off --for 1h", Usage, "--for is for hubcap offline on"},
		{"offline maybe", Usage, "usage: hubcap offline"},
		{"offline off", Done, "Online"},
	} {
		if r := h.run(step.line); r.code != step.code || !strings.Contains(r.out+r.errs, step.says) {
			t.Errorf("%s: %+v, want %d %q", step.line, r, step.code, step.says)
		}
	}
	h = start(t, "HUBCAP_OFFLINE=true")
	if r := h.run("offline off"); r.code != Failed || !strings.Contains(r.errs, "HUBCAP_OFFLINE is set") {
		t.Errorf("%+v", r)
	}
}

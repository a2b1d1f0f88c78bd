package warm_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/jobs"
	"hubcap/proxy/purge"
	"hubcap/proxy/warm"
)

// held is the bytes that are held, partial fills included.
func (r *rig) held() (bytes int64) {
	for o := range r.Ledger.Objects() {
		bytes += o.Size
	}
	return bytes
}

// TestPurge frees the space of an image, says how much before, lets a reader that has
// begun end, and has the image fetched again afterwards.
func TestPurge(t *testing.T) {
	r := newRig(t, rigOptions{})
	layer := fakehub.RandomBlob(1, 30*mib)
	r.hub.Image(repo, "1", layer, fakehub.RandomBlob(2, kib))
	r.hub.Image("library/other", "1", fakehub.RandomBlob(2, kib))
	r.image("demo:1", warm.Request{})
	r.image("other:1", warm.Request{})
	before := r.held()

	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, r.Mirror+"/v2/"+repo+"/blobs/"+digest.FromBytes(layer).String(), nil)
	must(t, err)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	must(t, err)
	defer resp.Body.Close()

	dry, err := r.Purge.Purge(purge.Request{Ref: "demo:1", DryRun: true})
	must(t, err)
	if r.held() != before || dry.Objects != 3 || dry.Shared != 1 {
		t.Errorf("%+v", dry)
	}
	run, err := r.Purge.Purge(purge.Request{Ref: "demo:1"})
	must(t, err)
	if run.Objects != dry.Objects || run.Bytes != dry.Bytes || run.Bytes < 30*mib || r.held() != before-run.Bytes {
		t.Errorf("%+v, %d held, %d before", run, r.held(), before)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(body, layer) {
		t.Errorf("the reader got %d bytes, %v", len(body), err)
	}
	eventually(t, "its space is free", func() bool { return r.Ledger.Status().Evicted == 0 })
	if _, err := r.Purge.Purge(purge.Request{Ref: "demo:1"}); !errors.Is(err, purge.ErrUnknown) {
		t.Errorf("again: %v", err)
	}
	r.hub.Reset()
	if got := r.image("other:1", warm.Request{}); got.Missing != 0 || r.asked() != nil {
		t.Errorf("another image: %+v", got)
	}
	if got := r.image("demo:1", warm.Request{}); got.Missing != 3 || got.Pulls != 1 {
		t.Errorf("fetched again: %+v", got)
	}
}

// TestPurgeRestricted: the links of what went are gone too.
func TestPurgeRestricted(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{
		dir: dir, hub: fakehub.Options{Users: map[string]string{"box": "secret"}},
		environ: []string{
			"HUBCAP_UPSTREAM_0_USERNAME=box", "HUBCAP_UPSTREAM_0_PASSWORD=secret",
			"HUBCAP_UPSTREAM_0_VISIBILITY=shared", "HUBCAP_UPSTREAM_0_SHARED_REPOSITORIES=acme/**",
		},
	})
	r.hub.SetPrivate("acme/app", "box")
	r.hub.Image("acme/app", "1", fakehub.RandomBlob(1, 5*kib))
	r.image("acme/app:1", warm.Request{})
	got, err := r.Purge.Purge(purge.Request{Repository: "acme/**"})
	must(t, err)
	if got.Objects != 3 || r.held() != 0 {
		t.Errorf("%+v", got)
	}
	r.Stop()
	snapshot, err := os.ReadFile(filepath.Join(dir, "snapshot"))
	if err == nil && strings.Contains(string(snapshot), "acme/app") {
		t.Errorf("the snapshot still has it: %s", snapshot)
	}
}

// TestVerify finds a file whose bytes have changed, and removes it.
func TestVerify(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	layer := fakehub.RandomBlob(1, 100*kib)
	r.hub.Image(repo, "1", layer)
	r.hub.Image(repo, "2", fakehub.RandomBlob(2, kib))
	r.image("demo:1", warm.Request{})
	r.image("demo:2", warm.Request{})
	verify := func(name string) jobs.Job {
		t.Helper()
		one := ref(t, name)
		j, err := r.Warm.StartVerify(&one)
		must(t, err)
		return r.ended(j.ID)
	}
	if j := verify("demo:1"); j.State != jobs.Done || j.Items[0].Objects != 3 || j.Done != j.Total || j.Done < 100*kib {
		t.Errorf("%+v", j)
	}
	d := digest.FromBytes(layer)
	file := filepath.Join(dir, "blobs", "open", "sha256", d.Encoded()[:2], d.Encoded())
	must(t, os.Chmod(file, 0o600))
	must(t, os.WriteFile(file, fakehub.RandomBlob(3, 100*kib), 0o600))
	if j := verify("demo:2"); j.State != jobs.Done || j.ObjectsTotal != 3 {
		t.Errorf("%+v", j)
	}
	j, err := r.Warm.StartVerify(nil)
	must(t, err)
	j = r.ended(j.ID)
	if j.State != jobs.InPart || len(j.Items) != 2 || j.Items[0].Objects != 5 || j.Items[1].Name != "wrong" || j.Items[1].Bytes != 100*kib || !strings.Contains(strings.Join(j.Errors, " "), d.String()) {
		t.Errorf("%+v", j)
	}
	if got := r.image("demo:1", warm.Request{}); got.Missing != 1 || got.Fetched != 100*kib {
		t.Errorf("fetched again: %+v", got)
	}
	none := ref(t, "demo:none")
	if _, err := r.Warm.StartVerify(&none); !errors.Is(err, warm.ErrNotHeld) {
		t.Errorf("%v", err)
	}
}

package proxy_test

import (
	"testing"
	"time"

	"hubcap/e2e/conformance"
	"hubcap/e2e/fakehub"
)

// TestConformance asks the whole of hubcap what the specification asks of a
// registry: cold, warm, with its upstream killed, and started again like that.
func TestConformance(t *testing.T) {
	t.Parallel()
	for name, lacks := range map[string]conformance.Lacks{"of today": {}, "without the referrers API": {Referrers: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			hub := fakehub.Start(t, fakehub.Options{NoReferrers: lacks.Referrers, PageSize: 3})
			content := conformance.NewContent("owner/app", "owner/empty", lacks)
			for _, b := range content.AllBlobs() {
				hub.AddBlobAs(content.Repository, b.Digest, b.Body)
			}
			for _, m := range content.Manifests {
				hub.AddManifestAs(content.Repository, m.Tag, m.Digest, m.MediaType, m.Body)
			}
			hub.AddBlob(content.Empty, nil)
			r := newRig(t, rigOptions{hub: hub, dir: dir, tryAgain: time.Minute})
			ask := func(when, namespace string, cut bool) {
				t.Run(when, func(t *testing.T) {
					conformance.Registry{URL: r.url, Client: r.client, Namespace: namespace, Cut: cut}.Run(t, content)
				})
				r.settle()
			}
			ask("cold", "", false)
			if !lacks.Referrers || !testing.Short() {
				ask("warm", "docker.io", false)
			}
			hub.Down()
			r.clock.Advance(time.Hour)
			ask("killed", "", true)
			r.stop()
			r = newRig(t, rigOptions{hub: hub, dir: dir, tryAgain: time.Minute})
			r.clock.Advance(2 * time.Hour)
			ask("started again", "docker.io", true)
		})
	}
}

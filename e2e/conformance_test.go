package e2e

import (
	"net/http"
	"testing"

	"hubcap/e2e/conformance"
)

// TestConformance asks hubcap, in front of Debian's own registry, what the specification asks of a registry: cold, warm, and with
// that registry killed. It knows no referrers API, and keeps them under tags.
func TestConformance(t *testing.T) {
	need(t, "docker-registry")
	content := conformance.NewContent("owner/app", "", conformance.Lacks{Referrers: true, SHA512: true, Untagged: true})
	ns := newNamespace(t)
	registry := startOtherRegistry(t, ns)
	pushContent(t, ns.httpClient(t), content)
	content.Repository = testRegistry + "/" + content.Repository
	h := startHubcap(t, ns, scratch(t), "HUBCAP_TAG_TTL=1s",
		"HUBCAP_UPSTREAM_0_HOST="+testRegistry,
		"HUBCAP_UPSTREAM_0_URL=http://"+otherRegistry,
		"HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=127.0.0.0/8")
	for _, when := range []string{"cold", "warm", "killed"} {
		if when == "killed" {
			registry.kill()
		}
		t.Run(when, func(t *testing.T) {
			conformance.Registry{URL: "http://" + mirror, Client: h.http, Cut: when == "killed"}.Run(t, content)
		})
	}
}

// pushContent fills the registry through its API. What a manifest names comes before it.
func pushContent(t *testing.T, client *http.Client, content *conformance.Content) {
	t.Helper()
	base := "http://" + otherRegistry + "/v2/" + content.Repository
	for _, blob := range content.AllBlobs() {
		pushBlob(t, client, base, blob.Digest, blob.Body)
	}
	for _, manifest := range content.Manifests {
		reference := manifest.Tag
		if reference == "" {
			reference = manifest.Digest.String()
		}
		push(t, client, http.MethodPut, base+"/manifests/"+reference, manifest.MediaType, manifest.Body)
	}
}

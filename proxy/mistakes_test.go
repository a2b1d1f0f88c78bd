package proxy_test

import (
	"net/netip"
	"strings"
	"testing"

	"hubcap/proxy/advice"
)

// TestClientOutsideTheRanges is told its address and the variable, and the log
// says the same.
func TestClientOutsideTheRanges(t *testing.T) {
	r := newRig(t, rigOptions{clients: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	got := r.get("/v2/library/alpine/manifests/latest")
	text := advice.ClientRefused(netip.MustParseAddr("127.0.0.1"))
	if got.StatusCode != 403 || got.code() != "DENIED" || !strings.Contains(string(got.body), text) {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	if !strings.Contains(r.log.String(), "level=WARN msg=\""+text) {
		t.Errorf("the log does not say it:\n%s", r.log)
	}
}

// TestRegistryThatIsNotConfigured is 404 to the client, and the log says what to
// set, however the registry was named.
func TestRegistryThatIsNotConfigured(t *testing.T) {
	for _, path := range []string{"/v2/team/app/manifests/v1?ns=harbor.corp", "/v2/harbor.corp/team/app/manifests/v1", "/harbor.corp/v2/team/app/manifests/v1"} {
		r := newRig(t, rigOptions{})
		r.get(path).want(t, 404, nil, "")
		if text := advice.NotConfigured("harbor.corp", 1); !strings.Contains(r.log.String(), text) {
			t.Errorf("%s: the log does not say it:\n%s", path, r.log)
		}
	}
}

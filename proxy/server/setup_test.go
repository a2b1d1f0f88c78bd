package server

import (
	"slices"
	"testing"

	"hubcap/proxy/config"
	"hubcap/proxy/upstream"
)

// Clients are not sent to registries of which the mirror ports show nothing.
func TestSetupLeavesOutRegistriesToLogInTo(t *testing.T) {
	c, err := config.Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	all := mirrorsOf(c).Registries
	c.Upstreams[slices.Index(all, "ghcr.io")].Visibility = upstream.Passthrough
	want := slices.DeleteFunc(all, func(host string) bool { return host == "ghcr.io" })
	if got := mirrorsOf(c).Registries; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// dockerd is sent to the port of Docker Hub, where it has a number.
func TestSetupKnowsDockerHubsPort(t *testing.T) {
	const other = "HUBCAP_DEFAULT_UPSTREAM=ghcr.io"
	for _, tc := range []struct {
		environ []string
		want    string
	}{
		{nil, "5000"},
		{[]string{"HUBCAP_LISTEN=:0"}, ""},
		{[]string{other}, ""},
		{[]string{other, "HUBCAP_LISTEN_0_ADDRESS=:5002", "HUBCAP_LISTEN_0_UPSTREAM=docker.io"}, "5002"},
		{[]string{"HUBCAP_LISTEN_0_ADDRESS=:5002", "HUBCAP_LISTEN_0_UPSTREAM=docker.io"}, "5000"},
	} {
		c, err := config.Load(tc.environ)
		if err != nil {
			t.Fatal(err)
		}
		if got := mirrorsOf(c).HubPort; got != tc.want {
			t.Errorf("%q: %q, want %q", tc.environ, got, tc.want)
		}
	}
}

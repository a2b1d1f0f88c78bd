package config

import (
	"slices"
	"strings"
	"testing"

	"hubcap/proxy/upstream"
)

func TestRules(t *testing.T) {
	host := "HUBCAP_UPSTREAM_0_HOST=docker.io"
	credentials := []string{"HUBCAP_UPSTREAM_0_USERNAME=u", "HUBCAP_UPSTREAM_0_PASSWORD=p"}
	set := func(more ...string) []string { return append([]string{host}, more...) }

	c := mustLoad(t, set(append(credentials,
		"HUBCAP_UPSTREAM_0_VISIBILITY=shared", "HUBCAP_UPSTREAM_0_SHARED_REPOSITORIES=owner/**, team/app",
		"HUBCAP_UPSTREAM_0_ALLOW=owner/**,library/*", "HUBCAP_UPSTREAM_0_DENY=owner/old")...)...)
	rules := entry(t, c, "docker.io").Rules
	if rules.Visibility != upstream.Shared || !slices.Equal(rules.SharedRepositories, []string{"owner/**", "team/app"}) ||
		!slices.Equal(rules.Allow, []string{"owner/**", "library/*"}) || !slices.Equal(rules.Deny, []string{"owner/old"}) {
		t.Errorf("%+v", rules)
	}
	if !slices.ContainsFunc(c.Warnings, func(w string) bool { return strings.Contains(w, "SHARED_REPOSITORIES=owner/**,team/app") }) {
		t.Errorf("the operator is not warned: %q", c.Warnings)
	}
	for name, tc := range map[string]struct {
		environ []string
		want    string
	}{
		"unknown visibility":           {set("HUBCAP_UPSTREAM_0_VISIBILITY=private"), "HUBCAP_UPSTREAM_0_VISIBILITY=private: want public"},
		"shared without repositories":  {set(append(credentials, "HUBCAP_UPSTREAM_0_VISIBILITY=shared")...), "SHARED_REPOSITORIES"},
		"shared without credentials":   {set("HUBCAP_UPSTREAM_0_VISIBILITY=shared", "HUBCAP_UPSTREAM_0_SHARED_REPOSITORIES=a/b"), "HUBCAP_UPSTREAM_0_USERNAME"},
		"repositories without shared":  {set("HUBCAP_UPSTREAM_0_SHARED_REPOSITORIES=a/b"), "HUBCAP_UPSTREAM_0_VISIBILITY=shared"},
		"passthrough without a port":   {set("HUBCAP_UPSTREAM_0_VISIBILITY=passthrough"), "HUBCAP_AUTH_LISTEN"},
		"passthrough with credentials": {set(append(credentials, "HUBCAP_UPSTREAM_0_VISIBILITY=passthrough", "HUBCAP_AUTH_LISTEN=:5443", "HUBCAP_TLS_CERT_FILE=c", "HUBCAP_TLS_KEY_FILE=k")...), "leave those of hubcap out"},
		"a port without a certificate": {set("HUBCAP_AUTH_LISTEN=:5443"), "HUBCAP_AUTH_TLS_CERT_FILE"},
		"a port on another's address":  {set("HUBCAP_AUTH_LISTEN=:5000", "HUBCAP_TLS_CERT_FILE=c", "HUBCAP_TLS_KEY_FILE=k"), "HUBCAP_LISTEN's address"},
		"half a certificate":           {set("HUBCAP_TLS_KEY_FILE=k"), "set both or none"},
		"another half":                 {set("HUBCAP_AUTH_TLS_CERT_FILE=k"), "set both or none"},
		"a glob that does not close":   {set("HUBCAP_UPSTREAM_0_ALLOW=a/[b"), "HUBCAP_UPSTREAM_0_ALLOW=a/[b: want globs"},
		"an empty glob between commas": {set("HUBCAP_UPSTREAM_0_DENY=a/b,,c"), "HUBCAP_UPSTREAM_0_DENY=a/b,,c: want globs"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Load(tc.environ); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

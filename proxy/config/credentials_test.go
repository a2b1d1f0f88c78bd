package config

import (
	"slices"
	"strings"
	"testing"

	"hubcap/proxy/upstream/credentials"
)

const hubToken = "HUBCAP_UPSTREAM_0_TOKEN="

func TestCredentialKinds(t *testing.T) {
	file := writeFile(t, t.TempDir(), "token", canary+"\n")
	for name, tc := range map[string]struct {
		environ []string // without HUBCAP_UPSTREAM_0_
		host    string
		want    credentials.Login
	}{
		"user and password": {[]string{"HOST=docker.io", "USERNAME=u", "PASSWORD=" + canary}, "docker.io", credentials.Login{Username: "u", Password: canary}},
		"token":             {[]string{"HOST=x.azurecr.io", "TOKEN=" + canary}, "x.azurecr.io", credentials.Login{Token: canary}},
		"token in a file":   {[]string{"HOST=x.azurecr.io", "TOKEN_FILE=" + file}, "x.azurecr.io", credentials.Login{Token: canary, TokenFile: file}},
		"config.json":       {[]string{"HOST=docker.io", "CREDENTIALS=docker-config"}, "docker.io", credentials.Login{Kind: credentials.DockerConfig}},
		"Amazon's public":   {[]string{"HOST=public.ecr.aws", "CREDENTIALS=ecr"}, "public.ecr.aws", credentials.Login{Kind: credentials.ECR}},
		"Amazon's by another name": {
			[]string{"HOST=images.example", "URL=https://123456789012.dkr.ecr.eu-west-1.amazonaws.com", "CREDENTIALS=ecr"},
			"images.example", credentials.Login{Kind: credentials.ECR},
		},
		"Google's": {[]string{"HOST=*.pkg.dev", "CREDENTIALS=google"}, "*.pkg.dev", credentials.Login{Kind: credentials.Google}},
	} {
		t.Run(name, func(t *testing.T) {
			environ := make([]string, len(tc.environ))
			for i, one := range tc.environ {
				environ[i] = "HUBCAP_UPSTREAM_0_" + one
			}
			c := mustLoad(t, environ...)
			if e := entry(t, c, tc.host); e.Login != tc.want || !e.HasLogin() {
				t.Errorf("got kind %q, files %q %q", e.Kind, e.PasswordFile, e.TokenFile)
			}
			if len(c.Warnings) > 0 {
				t.Errorf("warnings: %q", c.Warnings)
			}
			for how, text := range shown(t, c) {
				if strings.Contains(text, canary) {
					t.Errorf("the credential shows by %s: %s", how, text)
				}
			}
			for name, state := range printed(t, environ...) {
				if strings.Contains(state, canary) {
					t.Errorf("printed %s: %s", name, state)
				}
			}
		})
	}
}

func TestSeveralEntriesOfOneHost(t *testing.T) {
	c := mustLoad(t,
		"HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_0_USERNAME=a", "HUBCAP_UPSTREAM_0_PASSWORD=pa", "HUBCAP_UPSTREAM_0_REPOSITORIES=team-a/**",
		"HUBCAP_UPSTREAM_1_HOST=index.docker.io", "HUBCAP_UPSTREAM_1_CREDENTIALS=docker-config", "HUBCAP_UPSTREAM_1_TAG_TTL=9m",
		"HUBCAP_UPSTREAM_1_VISIBILITY=shared", "HUBCAP_UPSTREAM_1_SHARED_REPOSITORIES=team-a/**",
		"HUBCAP_UPSTREAM_2_HOST=docker.io", "HUBCAP_UPSTREAM_2_USERNAME=c", "HUBCAP_UPSTREAM_2_PASSWORD=pc", "HUBCAP_UPSTREAM_2_REPOSITORIES=team-c/*,c/d",
		"HUBCAP_UPSTREAM_2_TAG_TTL=9m")
	e := entry(t, c, "docker.io")
	if e.Kind != credentials.DockerConfig || len(e.Parts) != 2 || e.TagTTL.String() != "9m0s" || !slices.Equal(e.SharedRepositories, []string{"team-a/**"}) {
		t.Errorf("%+v", e)
	}
	for i, want := range []struct {
		user  string
		globs []string
	}{{"a", []string{"team-a/**"}}, {"c", []string{"team-c/*", "c/d"}}} {
		if p := e.Parts[i]; string(p.Login.Username) != want.user || !slices.Equal(p.Repositories, want.globs) {
			t.Errorf("part %d: %q", i, p.Repositories)
		}
	}
	if e.URL.String() != "https://registry-1.docker.io" || len(e.TokenHosts) != 1 {
		t.Errorf("the preset is lost: %s, %q", e.URL, e.TokenHosts)
	}
}

func TestCredentialsThatDisagree(t *testing.T) {
	const host0, host1 = "HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_1_HOST=docker.io"
	part := func(n, globs string) []string {
		p := "HUBCAP_UPSTREAM_" + n + "_"
		return []string{p + "HOST=docker.io", p + "USERNAME=u", p + "PASSWORD=" + canary, p + "REPOSITORIES=" + globs}
	}
	for name, tc := range map[string]struct {
		environ []string
		want    string
	}{
		"unknown kind":       {[]string{host0, "HUBCAP_UPSTREAM_0_CREDENTIALS=vault"}, "HUBCAP_UPSTREAM_0_CREDENTIALS=vault: want docker-config"},
		"kind and token":     {[]string{host0, "HUBCAP_UPSTREAM_0_CREDENTIALS=docker-config", hubToken + canary}, "HUBCAP_UPSTREAM_0_CREDENTIALS=docker-config: a user or token"},
		"user and token":     {[]string{host0, "HUBCAP_UPSTREAM_0_USERNAME=u", "HUBCAP_UPSTREAM_0_PASSWORD=" + canary, hubToken + canary}, "HUBCAP_UPSTREAM_0_TOKEN and HUBCAP_UPSTREAM_0_USERNAME"},
		"Amazon's elsewhere": {[]string{host0, "HUBCAP_UPSTREAM_0_CREDENTIALS=ecr"}, "HUBCAP_UPSTREAM_0_CREDENTIALS=ecr: registry-1.docker.io is no registry of Amazon's"},
		"Google's elsewhere": {[]string{host0, "HUBCAP_UPSTREAM_0_CREDENTIALS=google"}, "no registry of Google's"},
		"globs for nothing":  {[]string{host0, "HUBCAP_UPSTREAM_0_REPOSITORIES=a/*"}, "HUBCAP_UPSTREAM_0_REPOSITORIES=a/*: are for credentials"},
		"no globs twice":     {[]string{host0, host1}, "HUBCAP_UPSTREAM_1_HOST=docker.io: HUBCAP_UPSTREAM_0_HOST names it too"},
		"one glob twice":     {append(part("0", "a/*,b/*"), part("1", "c/*,b/*")...), "HUBCAP_UPSTREAM_1_REPOSITORIES=c/*,b/*: HUBCAP_UPSTREAM_0_REPOSITORIES has b/* too"},
		"two addresses": {
			append(part("0", "a/*"), append(part("1", "b/*"), "HUBCAP_UPSTREAM_0_URL=https://a.example", "HUBCAP_UPSTREAM_1_URL=https://b.example")...),
			"HUBCAP_UPSTREAM_1_URL=https://b.example: HUBCAP_UPSTREAM_0_URL says otherwise of the same registry",
		},
		"two visibilities": {
			append(part("0", "a/*"), append(part("1", "b/*"), "HUBCAP_UPSTREAM_0_VISIBILITY=public", "HUBCAP_UPSTREAM_1_VISIBILITY=shared", "HUBCAP_UPSTREAM_1_SHARED_REPOSITORIES=b/*")...),
			"HUBCAP_UPSTREAM_1_VISIBILITY=shared: HUBCAP_UPSTREAM_0_VISIBILITY says otherwise",
		},
	} {
		t.Run(name, func(t *testing.T) {
			message := refusal(t, tc.environ...)
			if !strings.Contains(message, tc.want) || strings.Contains(message, canary) {
				t.Errorf("got %q, want %q", message, tc.want)
			}
		})
	}
}

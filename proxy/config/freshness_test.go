package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTagRules(t *testing.T) {
	for text, want := range map[string]TagRules{
		"*:latest=30s":            {{Repository: "*", Tag: "latest", TTL: 30 * time.Second}},
		"registry.k8s.io/**=24h":  {{Repository: "registry.k8s.io/**", Tag: "*", TTL: 24 * time.Hour}},
		"library/*:v*=immutable":  {{Repository: "library/*", Tag: "v*", Immutable: true}},
		"localhost:5005/a=1d":     {{Repository: "localhost:5005/a", Tag: "*", TTL: 24 * time.Hour}},
		"h.io:1/a:b=1s, *:c = 2s": {{Repository: "h.io:1/a", Tag: "b", TTL: time.Second}, {Repository: "*", Tag: "c", TTL: 2 * time.Second}},
		"index.docker.io/a/*=1h":  {{Repository: "docker.io/a/*", Tag: "*", TTL: time.Hour}},
		"{a,b":                    nil,
		"a":                       nil,
		"a=":                      nil,
		"=1h":                     nil,
		"a:=1h":                   nil,
		"a=0":                     nil,
		"a=-1h":                   nil,
		"a=for ever":              nil,
		"a=1h,":                   nil,
		"[=1h":                    nil,
		"a:[=1h":                  nil,
	} {
		t.Run(text, func(t *testing.T) {
			var got TagRules
			if err := got.UnmarshalText([]byte(text)); (err == nil) != (want != nil) {
				t.Fatal(err)
			}
			if want == nil {
				return
			}
			var again TagRules
			if err := again.UnmarshalText([]byte(written(got))); err != nil || !equal(again, want) || !equal(got, want) {
				t.Errorf("%v, and %v from %q, want %v", got, again, written(got), want)
			}
		})
	}
}

func equal(a, b TagRules) bool { return slices.Equal(a, b) }

// written is what the operator would write for rules.
func written(rules TagRules) string {
	var all []string
	for _, r := range rules {
		ttl := "immutable"
		if !r.Immutable {
			ttl = r.TTL.String()
		}
		all = append(all, fmt.Sprintf("%s:%s=%s", r.Repository, r.Tag, ttl))
	}
	return strings.Join(all, ",")
}

func FuzzTagRules(f *testing.F) {
	for _, s := range []string{"*:latest=30s,registry.k8s.io/**=24h", "a:b=immutable", "h:1/a={x", "=", "a=1d12h", ":=1s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var rules TagRules
		if rules.UnmarshalText([]byte(s)) != nil {
			return
		}
		var again TagRules
		if err := again.UnmarshalText([]byte(written(rules))); err != nil || !equal(rules, again) {
			t.Errorf("%q is %v, written %q, read as %v: %v", s, rules, written(rules), again, err)
		}
	})
}

func TestCooldowns(t *testing.T) {
	for text, want := range map[string]Cooldowns{
		"docker.io/**=48h,*:nightly=0": {{Repository: "docker.io/**", Tag: "*", For: 48 * time.Hour}, {Repository: "*", Tag: "nightly"}},
		"index.docker.io/a/*:v[12]=1d": {{Repository: "docker.io/a/*", Tag: "v[12]", For: 24 * time.Hour}},
		"localhost:5005/a=1h":          {{Repository: "localhost:5005/a", Tag: "*", For: time.Hour}},
		"48h":                          nil,
		"a=":                           nil,
		"a=-1h":                        nil,
		"a=immutable":                  nil,
		"a:=1h":                        nil,
		"[=1h":                         nil,
		"a=1h,":                        nil,
	} {
		c, err := Load([]string{"HUBCAP_TAG_COOLDOWN=" + text})
		if (err == nil) != (want != nil) || !slices.Equal(c.TagCooldown, want) {
			t.Errorf("%q: %v, %v", text, c.TagCooldown, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "HUBCAP_TAG_COOLDOWN="+text+": want ") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestStaleFor(t *testing.T) {
	for text, want := range map[string]struct{ public, private time.Duration }{
		"":          {-1, 0},
		"unlimited": {-1, -1},
		"0":         {0, 0},
		"24h":       {24 * time.Hour, 24 * time.Hour},
	} {
		c, err := Load([]string{"HUBCAP_STALE_IF_ERROR=" + text})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.StaleIfError; got.Public() != want.public || got.Private() != want.private {
			t.Errorf("%q: %v, %v", text, got.Public(), got.Private())
		}
	}
	for _, text := range []string{"never", "-1h", "-1"} {
		if _, err := Load([]string{"HUBCAP_STALE_IF_ERROR=" + text}); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

package freshness

import (
	"errors"
	"testing"
	"time"

	"hubcap/cache/index"
)

func TestRules(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	r := &Resolver{o: Options{Now: func() time.Time { return now }, Rules: []Rule{
		{Repository: "registry.k8s.io/**", Tag: "v*", Immutable: true},
		{Repository: "registry.k8s.io/**", Tag: "*", TTL: 24 * time.Hour},
		{Repository: "*", Tag: "latest", TTL: 30 * time.Second},
		{Repository: "library/nginx", Tag: "*", TTL: time.Hour},
		{Repository: "quay.io/*", Tag: "*", TTL: time.Hour},
		{Repository: "localhost:5005/**", Tag: "*", TTL: 2 * time.Hour},
		{Repository: "redis", Tag: "7", TTL: 3 * time.Hour},
		{Repository: "docker.io/mysql", Tag: "8", TTL: 4 * time.Hour},
	}}}
	const year = 365 * 24 * time.Hour
	for name, tt := range map[string]struct {
		host, repository, tag string
		ttl                   time.Duration
	}{
		"no rule":                      {"ghcr.io", "owner/app", "v1", time.Minute},
		"latest of any":                {"ghcr.io", "owner/deep/app", "latest", 30 * time.Second},
		"the first counts":             {"docker.io", "library/nginx", "latest", 30 * time.Second},
		"repository, any registry":     {"docker.io", "library/nginx", "1.27", time.Hour},
		"* is one part":                {"quay.io", "deep/nginx", "1.27", time.Minute},
		"an official image":            {"docker.io", "library/redis", "7", 3 * time.Hour},
		"and its registry":             {"docker.io", "library/mysql", "8", 4 * time.Hour},
		"another registry's library":   {"ghcr.io", "library/redis", "7", time.Minute},
		"another owner's":              {"docker.io", "owner/redis", "7", time.Minute},
		"registry":                     {"registry.k8s.io", "coredns/coredns", "latest", 24 * time.Hour},
		"immutable":                    {"registry.k8s.io", "pause", "v3.9", year},
		"another registry's like name": {"docker.io", "registry.k8s.io/pause", "v3.9", time.Minute},
		"port":                         {"localhost:5005", "x", "y", 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			repo := Repository{Host: tt.host, Name: tt.repository, TTL: time.Minute}
			fresh := func(age time.Duration) bool {
				return r.fresh(repo, tt.tag, index.Tag{Confirmed: now.Add(-age)})
			}
			if !fresh(tt.ttl - 1) {
				t.Errorf("not fresh within %s", tt.ttl)
			}
			if tt.ttl != year && fresh(tt.ttl) {
				t.Errorf("fresh after %s", tt.ttl)
			}
			if tt.ttl != year && fresh(-time.Hour) {
				t.Error("fresh before it was confirmed")
			}
		})
	}
}

func TestFailures(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	f := NewFailures(func() time.Time { return now })
	f.Note("a", errSlow, NotFoundFor)
	if err := f.Of("a"); !errors.Is(err, errSlow) || !Remembered(err) || f.Of("b") != nil {
		t.Error("not what was noted")
	}
	now = now.Add(NotFoundFor)
	if f.Of("a") != nil {
		t.Error("remembered for too long")
	}
	f.Note("a", errSlow, NotFoundFor)
	f.Forget("a")
	if f.Of("a") != nil {
		t.Error("not forgotten")
	}
	for i := range 2 * failuresKept {
		f.Note(string(rune(i)), errSlow, NotFoundFor)
	}
	if n := f.known.Len(); n != failuresKept {
		t.Errorf("%d are kept", n)
	}
}

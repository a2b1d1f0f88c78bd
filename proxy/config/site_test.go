package config

import (
	"strings"
	"testing"
)

// TestSite has each mistake in the list of boxes end with a line that names the
// variable and what is allowed.
func TestSite(t *testing.T) {
	for _, tc := range []struct{ site, self, sisters, refused string }{
		{site: "http://hubcap-0:5000,http://hubcap-1:5000", self: "http://hubcap-1:5000"},
		{site: "https://A.site:5000/, http://[fd00::1]:5000", self: "https://a.site:5000"},
		{site: "http://hubcap-0:5000"},
		{},
		{site: "hubcap-0:5000", refused: "HUBCAP_SITE="},
		{site: "http://hubcap-0", refused: "HUBCAP_SITE="},
		{site: "http://hubcap-0:5000/path", refused: "HUBCAP_SITE="},
		{site: "http://user@hubcap-0:5000", refused: "HUBCAP_SITE="},
		{site: "http://a:5000,http://A:5000/", refused: "http://a:5000 is in the list twice"},
		{site: "http://a:5000,", refused: "HUBCAP_SITE="},
		{site: "http://a:5000", self: "http://b:5000", refused: "HUBCAP_SITE_SELF=http://b:5000: want one of HUBCAP_SITE: http://a:5000"},
		{self: "http://b:5000", refused: "HUBCAP_SITE_SELF="},
		{sisters: "http://munich:5000"},
		{sisters: "munich", refused: "HUBCAP_SISTERS="},
		{site: "http://a:5000", sisters: "http://b:5000,http://a:5000", refused: "HUBCAP_SISTERS=http://a:5000: it is in HUBCAP_SITE too"},
	} {
		c, err := Load([]string{"HUBCAP_SITE=" + tc.site, "HUBCAP_SITE_SELF=" + tc.self, "HUBCAP_SISTERS=" + tc.sisters})
		if tc.refused == "" {
			if err != nil || tc.self != "" && c.Self() < 0 {
				t.Errorf("%s, %s: %v", tc.site, tc.self, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tc.refused) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s, %s: %v, want %q", tc.site, tc.self, err, tc.refused)
		}
	}
}

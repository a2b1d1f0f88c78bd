package advice

import (
	"net/netip"
	"testing"
	"time"
)

func TestTexts(t *testing.T) {
	for got, want := range map[string]string{
		PortTaken("LISTEN", ":5000"):                                                   "HUBCAP_LISTEN=:5000: in use by another program (ss -ltnp 'sport = :5000' names it); HUBCAP_LISTEN=:5080 is another port",
		PortTaken("ADMIN_LISTEN", "[::1]:65500"):                                       "HUBCAP_ADMIN_LISTEN=[::1]:65500: in use by another program (ss -ltnp 'sport = :65500' names it); HUBCAP_ADMIN_LISTEN=[::1]:65420 is another port",
		NotWritable("/data", 65532, 65532):                                             "HUBCAP_DATA_DIR=/data: user 65532 may not write there: chown -R 65532:65532 /data, or a named volume",
		PrivateAddress("registry.lan", netip.MustParseAddr("10.20.0.5")):               "registry.lan is 10.20.0.5, a private address: HUBCAP_UPSTREAM_<n>_PRIVATE_CIDRS=10.20.0.0/16 allows it",
		PrivateAddress("registry.lan", netip.MustParseAddr("fd00:1::5")):               "registry.lan is fd00:1::5, a private address: HUBCAP_UPSTREAM_<n>_PRIVATE_CIDRS=fd00:1::/64 allows it",
		NotConfigured("harbor.corp", 3):                                                "3 clients ask for harbor.corp, which is not configured: HUBCAP_UPSTREAM_<n>_HOST=harbor.corp",
		NotConfigured("harbor.corp", 1):                                                "1 client asks for harbor.corp, which is not configured: HUBCAP_UPSTREAM_<n>_HOST=harbor.corp",
		HubOnly("berlin.lan:5000"):                                                     "dockerd mirrors Docker Hub alone: berlin.lan:5000/ghcr.io/owner/name, or containerd",
		TLSToPlainPort(netip.MustParseAddr("10.1.2.9")):                                `10.1.2.9 speaks TLS to the plain port: "insecure-registries" there, or HUBCAP_TLS_CERT_FILE here`,
		UnknownAuthority("docker.io", "Corp Proxy CA"):                                 `docker.io shows a certificate of "Corp Proxy CA", unknown here: HUBCAP_CA_FILE=/etc/ssl/corp.pem`,
		ClientRefused(netip.MustParseAddr("172.30.4.2")):                               "this mirror does not serve 172.30.4.2: HUBCAP_ALLOW_CLIENTS",
		LoginRefused(Login{Registry: "docker.io", Limit: -1}):                          "docker.io refuses the box's credentials (401): pulls go on without them. They are read at the start: restart hubcap with new ones, or give them as a file",
		Mistakes()[len(Mistakes())-1].Text:                                             "docker.io refuses the box's credentials (401): pulls go on without them, 100 in 6 h. They were read at 10:02 and are read again each few minutes",
		Duration(40*time.Minute) + ", " + Duration(90*time.Second):                     "40 min, 90 s",
		Duration(6*time.Hour) + ", " + Duration(time.Duration(15*24*3600)*time.Second): "6 h, 15 d",
	} {
		if got != want {
			t.Errorf("%s\nwant\n%s", got, want)
		}
	}
	if n := len(Mistakes()); n != 10 {
		t.Errorf("%d mistakes, want 10", n)
	}
}

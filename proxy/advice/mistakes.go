package advice

import (
	"net/netip"
	"time"
)

// Mistake is a frequent mistake as its documentation shows it.
type Mistake struct {
	Name  string
	Text  string // with an example's names and addresses
	Where string // where an operator meets the text
}

// Mistakes returns the mistakes that operators make most often.
func Mistakes() []Mistake {
	const (
		log      = "log, doctor"
		problems = "log, problems, doctor"
		noClient = "doctor, while no client has come"
	)
	return []Mistake{
		{"Another program has the port", PortTaken("LISTEN", ":5000"), log},
		{"The data directory is not writable (the image runs as user 65532)", NotWritable("/data", 65532, 65532), log},
		{"A registry has a private address", PrivateAddress("registry.lan", netip.MustParseAddr("10.20.0.5")), log},
		{"A registry is not configured", NotConfigured("harbor.corp", 3), problems + "; clients get 404"},
		{"dockerd is expected to mirror other registries than Docker Hub", HubOnly("berlin.lan:5000"), noClient},
		{"Clients say `server gave HTTP response to HTTPS client`", TLSToPlainPort(netip.MustParseAddr("10.1.2.9")), problems},
		{"x509: the certificate is of the site's own authority or proxy", UnknownAuthority("registry-1.docker.io", "Corp Proxy CA"), log},
		{"containerd ignores certs.d", ConfigPath(), noClient},
		{"A client is outside the ranges", ClientRefused(netip.MustParseAddr("172.30.4.2")), problems + ", the client's answer (403)"},
		{"Wrong password or token", LoginRefused(Login{
			Registry: "docker.io", Limit: 100, Window: 6 * time.Hour, Read: time.Date(2026, 11, 28, 10, 2, 0, 0, time.UTC),
		}), problems},
	}
}

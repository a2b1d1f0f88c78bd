// Package advice holds the texts for the mistakes that operators make most
// often. The log, hubcap doctor, the problems and the documentation get them
// here, so that they say the same.
package advice

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// PortTaken returns the text for an address of a variable, without HUBCAP_, that
// another program listens at.
func PortTaken(variable, address string) string {
	host, port, _ := net.SplitHostPort(address)
	return fmt.Sprintf("HUBCAP_%s=%s: in use by another program (ss -ltnp 'sport = :%s' names it); HUBCAP_%s=%s is another port",
		variable, address, port, variable, joined(host, otherPort(port)))
}

// otherPort returns a port that is likely to be free.
func otherPort(port string) string {
	const step = 80
	n, _ := strconv.Atoi(port)
	if n += step; n > 65535 {
		n -= 2 * step
	}
	return strconv.Itoa(n)
}

// joined returns host and port as an operator writes them.
func joined(host, port string) string {
	if host == "" {
		return ":" + port
	}
	return net.JoinHostPort(host, port)
}

// NotWritable returns the text for a data directory in which this process, of
// the given user and group, may not write.
func NotWritable(dir string, user, group int) string {
	return fmt.Sprintf("HUBCAP_DATA_DIR=%s: user %d may not write there: chown -R %d:%d %s, or a named volume", dir, user, user, group, dir)
}

// PrivateAddress returns the text for a registry's host that resolves to a
// private address.
func PrivateAddress(host string, at netip.Addr) string {
	at = at.Unmap().WithZone("")
	bits := 16
	if at.Is6() {
		bits = 64
	}
	return fmt.Sprintf("%s is %s, a private address: HUBCAP_UPSTREAM_<n>_PRIVATE_CIDRS=%s allows it", host, at, netip.PrefixFrom(at, bits).Masked())
}

// NotConfigured returns the text for a registry that so many clients ask for.
func NotConfigured(registry string, clients int) string {
	who := "1 client asks"
	if clients != 1 {
		who = strconv.Itoa(clients) + " clients ask"
	}
	return fmt.Sprintf("%s for %s, which is not configured: HUBCAP_UPSTREAM_<n>_HOST=%s", who, registry, registry)
}

// HubOnly returns the text for a dockerd that is expected to pull other
// registries than Docker Hub through its mirror. box is host:port.
func HubOnly(box string) string {
	return fmt.Sprintf("dockerd mirrors Docker Hub alone: %s/ghcr.io/owner/name, or containerd", box)
}

// TLSToPlainPort returns the text for a client that speaks nothing but TLS to a
// port without TLS. It shows "server gave HTTP response to HTTPS client".
func TLSToPlainPort(client netip.Addr) string {
	return fmt.Sprintf(`%s speaks TLS to the plain port: "insecure-registries" there, or HUBCAP_TLS_CERT_FILE here`, client)
}

// TokenHost returns the text for a registry that names a token service, by its
// host and port, that it is not known to have. Nothing is sent there.
func TokenHost(registry, host string) string {
	return fmt.Sprintf("%s names the token service %s, which is not on its list: HUBCAP_UPSTREAM_<n>_TOKEN_HOSTS=%s, if that is right", registry, host, host)
}

// UnknownAuthority returns the text for a host whose certificate is of an
// authority, by its name, that is not trusted.
func UnknownAuthority(host, authority string) string {
	return fmt.Sprintf("%s shows a certificate of %q, unknown here: HUBCAP_CA_FILE=/etc/ssl/corp.pem", host, authority)
}

// ConfigPath returns the text for a containerd that does not read its
// certs.d directory.
func ConfigPath() string {
	return "containerd ignores certs.d while config_path is empty, or holds two paths with a colon, which 2.2.0 writes by default and does not read: config_path = \"/etc/containerd/certs.d\""
}

// ClientRefused returns the text for a client outside the ranges that may pull.
// It is the body of the client's answer, too.
func ClientRefused(client netip.Addr) string {
	if !client.IsValid() {
		return "this mirror does not serve a client whose X-Forwarded-For cannot be read: HUBCAP_TRUSTED_PROXIES"
	}
	return fmt.Sprintf("this mirror does not serve %s: HUBCAP_ALLOW_CLIENTS", client)
}

// Login is what is known of credentials that a registry refuses.
type Login struct {
	Registry string
	Limit    int           // pulls without them per Window; negative when not known
	Window   time.Duration // 0 when not known
	Read     time.Time     // when their source was last read; zero when it is the environment, which is read at the start
}

// LoginRefused returns the text for a wrong password or token.
func LoginRefused(l Login) string {
	var t strings.Builder
	fmt.Fprintf(&t, "%s refuses the box's credentials (401): pulls go on without them", l.Registry)
	if l.Limit >= 0 {
		fmt.Fprintf(&t, ", %d", l.Limit)
		if l.Window > 0 {
			fmt.Fprintf(&t, " in %s", Duration(l.Window))
		}
	}
	if l.Read.IsZero() {
		t.WriteString(". They are read at the start: restart hubcap with new ones, or give them as a file")
	} else {
		fmt.Fprintf(&t, ". They were read at %s and are read again each few minutes", l.Read.Format("15:04"))
	}
	return t.String()
}

// Duration returns a length of time in its largest unit, rounded: 40 min, 6 h.
func Duration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 2*day:
		return fmt.Sprintf("%.0f h", d.Hours())
	default:
		return fmt.Sprintf("%.0f d", d.Hours()/24)
	}
}

// Size returns a number of bytes as operators read it: 41.0 GiB, 512 MiB.
func Size(bytes int64) string {
	const unit = 1 << 30
	if bytes < unit {
		return fmt.Sprintf("%.0f MiB", float64(bytes)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(bytes)/unit)
}

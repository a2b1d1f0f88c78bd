package setup

import (
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// maxHost is the longest DNS name, in bytes (RFC 1035, 2.3.4).
const maxHost = 253

// parseAddress returns a Host header as host:port, in the one spelling that the
// texts use. The host is a DNS name (RFC 1123, 2.1), an IPv4 address or an IPv6
// address in brackets without a zone; port is used if the header has none. ok
// is false for everything else: a text with it would be a file that a client
// cannot read, or that means something else.
func parseAddress(host, port string) (address string, ok bool) {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host, port = host[:i], host[i+1:]
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return "", false
	}
	if inner, v6 := strings.CutPrefix(host, "["); v6 {
		inner, closed := strings.CutSuffix(inner, "]")
		ip, err := netip.ParseAddr(inner)
		if !closed || err != nil || !ip.Is6() || ip.Zone() != "" {
			return "", false
		}
		return net.JoinHostPort(ip.String(), port), true
	}
	host = strings.ToLower(host)
	if !isHostName(host) {
		return "", false
	}
	return host + ":" + port, true
}

// hostName is a DNS name in lower case.
var hostName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// isHostName reports whether s is a DNS name or an IPv4 address. A name whose
// last label is a number is an address or nothing.
func isHostName(s string) bool {
	if last := s[strings.LastIndexByte(s, '.')+1:]; strings.Trim(last, "0123456789") == "" {
		ip, err := netip.ParseAddr(s)
		return err == nil && ip.Is4()
	}
	return len(s) <= maxHost && hostName.MatchString(s)
}

// isLoopback reports whether an address of parseAddress is of no use to other
// hosts.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip, ipErr := netip.ParseAddr(host)
	return err == nil && (host == "localhost" || strings.HasSuffix(host, ".localhost") || ipErr == nil && ip.Unmap().IsLoopback())
}

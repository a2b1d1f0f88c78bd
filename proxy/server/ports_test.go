package server

import (
	"net"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReachable(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Skip(err)
	}
	for _, tc := range []struct{ name, address, want string }{
		{"every interface", "0.0.0.0:5000", net.JoinHostPort(host, "5000")},
		{"every interface, IPv6", "[::]:5000", net.JoinHostPort(host, "5000")},
		{"one address", "192.0.2.7:5000", "192.0.2.7:5000"},
		{"one IPv6 address", "[2001:db8::7]:5000", "[2001:db8::7]:5000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			at, err := net.ResolveTCPAddr("tcp", tc.address)
			if err != nil {
				t.Fatal(err)
			}
			if got := reachable(at); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

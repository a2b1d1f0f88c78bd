package bypass

import "strings"

// Family is a kind of client: clients of one family do the same after the same
// answer.
type Family uint8

// The families.
const (
	Other      Family = iota // crane, helm, regctl, oras, curl and whatever is not known
	Docker                   // dockerd
	Containerd               // containerd, nerdctl
	BuildKit
	Containers // podman, buildah, skopeo, CRI-O: what is built on containers/image
	families
)

var familyNames = [families]string{"other", "docker", "containerd", "buildkit", "containers"}

func (f Family) String() string { return familyNames[f] }

// FamilyOf returns the family of a client by its User-Agent, of which only the
// first product counts.
func FamilyOf(agent string) Family {
	product, _, _ := strings.Cut(agent, "/")
	switch product {
	case "docker":
		return Docker
	case "containerd":
		return Containerd
	case "buildkit":
		return BuildKit
	case "containers", "podman", "skopeo", "Buildah", "buildah", "cri-o":
		return Containers
	default:
		return Other
	}
}

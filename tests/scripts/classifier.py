# A mini Vision Transformer on made images (4 kinds of patterns + noise)
# Homework 3, part 2
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(7)

IMG = 16
PATCH = 4
CLASSES = ["horizontal", "vertical", "checker", "ring"]


def make_images(per_class):
    images, labels = [], []
    ys, xs = torch.meshgrid(torch.arange(IMG), torch.arange(IMG), indexing="ij")
    for label in range(len(CLASSES)):
        for _ in range(per_class):
            s = torch.randint(0, 4, (1,)).item()
            if label == 0:
                img = ((ys + s) // 2 % 2).float()
            elif label == 1:
                img = ((xs + s) // 2 % 2).float()
            elif label == 2:
                img = ((xs + s) // 2 % 2 + (ys + s) // 2 % 2 == 1).float()
            else:
                r = ((ys - 7.5) ** 2 + (xs - 7.5) ** 2).sqrt()
                img = ((r + s) // 2 % 2 == 1).float()
            img = 2 * img - 1 + 2.0 * torch.randn(IMG, IMG)
            images.append(img)
            labels.append(label)
    return torch.stack(images).unsqueeze(1), torch.tensor(labels)


train_x, train_y = make_images(500)
test_x, test_y = make_images(50)
train_loader = DataLoader(TensorDataset(train_x, train_y), batch_size=32, shuffle=True)
test_loader = DataLoader(TensorDataset(test_x, test_y), batch_size=100, shuffle=False)


class ViT(nn.Module):
    def __init__(self, dim=48, depth=2, heads=4, mlp_dim=96, num_classes=4):
        super().__init__()
        num_patches = (IMG // PATCH) ** 2
        self.to_patch_embedding = nn.Linear(PATCH * PATCH, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, num_patches + 1, dim) * 0.02)
        encoder_layer = nn.TransformerEncoderLayer(d_model=dim, nhead=heads, dim_feedforward=mlp_dim,
                                                   dropout=0.1, activation='gelu',
                                                   batch_first=True)
        self.transformer = nn.TransformerEncoder(encoder_layer, num_layers=depth)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, img):
        n = img.size(0)
        # n c (h p1) (w p2) -> n (h w) (p1 p2 c)
        x = img.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
        x = x.contiguous().view(n, -1, PATCH * PATCH)
        x = self.to_patch_embedding(x)
        cls = self.cls_token.expand(n, -1, -1)
        x = torch.cat([cls, x], dim=1)
        x = x + self.pos_embedding
        x = self.transformer(x)
        return self.head(self.norm(x[:, 0]))


model = ViT()
criterion = nn.CrossEntropyLoss()
optimizer = optim.Adam(model.parameters(), lr=1e-3)

EPOCHS = 30
for epoch in range(EPOCHS):
    model.train()
    running_loss = 0.0
    correct = 0
    total = 0
    for i, data in enumerate(train_loader, 0):
        inputs, labels = data

        # zero the parameter gradients
        optimizer.zero_grad()

        # forward + backward + optimize
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()

        # print statistics
        running_loss += loss.item()
        _, predicted = torch.max(outputs.data, 1)
        total += labels.size(0)
        correct += (predicted == labels).sum().item()
        if i % 20 == 19:
            print('[%d, %5d] loss: %.3f acc: %.1f%%' % (epoch + 1, i + 1, running_loss / 20, 100 * correct / total))
            running_loss = 0.0

    # test
    model.eval()
    correct = 0
    test_loss = 0.0
    with torch.no_grad():
        for inputs, labels in test_loader:
            outputs = model(inputs)
            test_loss += criterion(outputs, labels).item()
            correct += (outputs.argmax(1) == labels).sum().item()
    print('Epoch %d: test loss %.3f, test accuracy %.1f %%' % (
        epoch + 1, test_loss / len(test_loader), 100 * correct / len(test_y)))

print('Finished Training')

import os, sys, time
import torch
import torch.nn as nn
import torch.nn.functional as F
import numpy as np
from tqdm import tqdm
import wandb

# cfg -------------------------------------------------
seed=0
EPOCHS = int(sys.argv[1]) if len(sys.argv)>1 else 10000   # stop it when it's good
STEPS_PER_EPOCH=50
bs=16
T=32
d=64
lr=1e-3
WARMUP=30
SAVE_EVERY=40
#lr=3e-4
# ------------------------------------------------------

torch.manual_seed(seed); np.random.seed(seed)
torch.set_printoptions(precision=3)

print("loading", os.path.abspath("data/poems.txt"))
raw = open("data/poems.txt").read()
vocab=sorted(set(raw)); V=len(vocab)
print("V =",V); print("".join(vocab))
c2i={c:i for i,c in enumerate(vocab)}
ids=np.array([c2i[c] for c in raw])
tr=ids[:-400]; te=ids[-400:]
print("train",tr.shape,"test",te.shape)

def batch(a):
    i=np.random.randint(0,len(a)-T-1,bs)
    s=np.stack([a[j:j+T+1] for j in i])
    s=torch.from_numpy(s).long()
    return s[:,:-1],s[:,1:]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.e=nn.Embedding(V,d); self.p=nn.Embedding(T,d)
        self.enc=nn.TransformerEncoder(nn.TransformerEncoderLayer(d,4,4*d,0.0,batch_first=True,norm_first=True),2,
                                       norm=nn.LayerNorm(d),enable_nested_tensor=False)
        self.o=nn.Linear(d,V)
        self.mask=nn.Transformer.generate_square_subsequent_mask(T)   # plain tensor, cpu is fine for me
    def forward(self,x):
        h=self.e(x)+self.p(torch.arange(x.shape[1]))
        h=self.enc(h,mask=self.mask[:x.shape[1],:x.shape[1]])
        return self.o(h)

net=Net()
print(net)
print("params:",sum(p.numel() for p in net.parameters()))
opt=torch.optim.AdamW(net.parameters(),lr=lr,weight_decay=0.01)
sched=torch.optim.lr_scheduler.LambdaLR(opt,lambda s: min(1.0,(s+1)/WARMUP))

wandb.init(project="poem-transformer",config={"lr":lr,"bs":bs,"T":T,"d":d})
logfile=open("train_log.txt","a")
os.makedirs("checkpoints",exist_ok=True)
losses=[]
t0=time.time()
step=0
for epoch in range(EPOCHS):
    bar=tqdm(range(STEPS_PER_EPOCH),desc="epoch %d"%epoch)
    for _ in bar:
        x,y=batch(tr)
        out=net(x)
        loss=F.cross_entropy(out.reshape(-1,V),y.reshape(-1))
        opt.zero_grad()
        loss.backward()
        gn=nn.utils.clip_grad_norm_(net.parameters(),1.0)
        opt.step()
        sched.step()
        losses.append(loss.item())
        step+=1
        bar.set_postfix(loss="%.3f"%loss.item(),gn="%.2f"%gn)
        wandb.log({"loss":loss.item(),"grad_norm":gn.item(),"lr":sched.get_last_lr()[0]})
        if step%10==0:
            print("step",step,"loss",float(losses[-1]),"mean of last 10",float(sum(losses[-10:])/10))
            logfile.write("%d %.4f\n"%(step,float(losses[-1]))); logfile.flush()
        if step%SAVE_EVERY==0:
            torch.save({"net":net.state_dict(),"opt":opt.state_dict(),"step":step},"checkpoints/last.pt")
            print("saved checkpoints/last.pt")
    net.eval()
    with torch.no_grad():
        xv,yv=batch(te)
        vl=F.cross_entropy(net(xv).reshape(-1,V),yv.reshape(-1)).item()
    net.train()
    print("#"*20,"epoch",epoch,"val",vl,"time",time.time()-t0)
    wandb.log({"val_loss":vl})

logfile.close()
wandb.finish()
print("bye")
sys.exit(0)
